"""The callbacks that come with coreframe, registered like those of any other plugin."""

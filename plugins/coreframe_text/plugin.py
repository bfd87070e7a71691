"""The embedders of this package, by name. One file each, of the same name."""

from coreframe.plugin import Table, hookimpl


@hookimpl
def coreframe_embedders() -> Table:
    return {
        "callable": "coreframe_text.callable:Callable",
        "hashing": "coreframe_text.hashing:Hashing",
        "model2vec": "coreframe_text.model2vec:Model2Vec",
        "openai": "coreframe_text.openai:OpenAI",
        "sentence_transformers": "coreframe_text.sentence_transformers:SentenceTransformers",
        "sha256": "coreframe_text.sha256:Sha256",
        "wordllama": "coreframe_text.wordllama:WordLlama",
    }

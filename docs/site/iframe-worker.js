// Search from file://, where browsers refuse to start a worker: a hidden frame runs its script.
//
// The theme's search asks `new Worker(url)`, sends and receives messages, and its script looks for
// `IFrameWorker` in the parent. With a server this file does nothing.
(() => {
  if (location.protocol !== "file:") return;

  class IFrameWorker extends EventTarget {
    constructor(url) {
      super();
      this.onmessage = null;
      this.waiting = []; // what was sent before the script was there
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.frame.title = "search";
      document.body.append(this.frame);
      this.inside = this.frame.contentWindow;
      this.inside.postMessage = (data) => this.#hear(data);
      this.inside.importScripts = (...urls) =>
        urls.reduce((before, next) => before.then(() => this.#load(next)), Promise.resolve());
      this.#load(url).then(() => {
        const waiting = this.waiting;
        this.waiting = null;
        waiting.forEach((data) => this.#tell(data));
      });
    }

    postMessage(data) {
      if (this.waiting) this.waiting.push(data);
      else this.#tell(data);
    }

    terminate() {
      this.frame.remove();
    }

    #load(url) {
      return new Promise((done, failed) => {
        const script = this.inside.document.createElement("script");
        script.src = new URL(url, document.baseURI).href;
        script.onload = () => done();
        script.onerror = () => failed(new Error(`cannot load ${url}`));
        this.inside.document.head.append(script);
      });
    }

    #tell(data) {
      this.inside.dispatchEvent(new this.inside.MessageEvent("message", { data }));
    }

    #hear(data) {
      setTimeout(() => {
        const event = new MessageEvent("message", { data });
        this.onmessage?.(event);
        this.dispatchEvent(event);
      });
    }
  }

  window.IFrameWorker = IFrameWorker;
  window.Worker = IFrameWorker;
})();

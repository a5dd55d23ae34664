// Sending files: what is dropped or chosen goes up a few at a time, with its progress; what fails for a while is repeated.

import {ApiError, pause, refusal, ROOT, toLogin} from "./api.js";
import {announce, button, count, el, megabytes, note, notify, reasonList, spelled} from "./dom.js";

/** @import {Accepted} from "../web_types" */

const AT_ONCE = 4;
const TRIES = 6; // of a file
const FIRST_PAUSE_MS = 1000; // doubled after each
const N_SHOWN = 100; // files listed

/**
 * @typedef {{file: File, name: string}} Named name: path below what was dropped
 * @typedef {Named & {state: "waiting" | "sending" | "sent" | "refused" | "failed", sent: number, why: string}} Entry
 */

/** What a drop holds, folders with all that is in them. @param {DataTransfer} transfer @returns {Promise<Named[]>} */
export async function dropped(transfer) {
  // entries have to be asked for before anything is awaited
  const entries = [...transfer.items].map(item => item.webkitGetAsEntry()).filter(entry => entry !== null);
  return (await Promise.all(entries.map(entry => filesOf(entry, "")))).flat();
}

/** @param {FileSystemEntry} entry @param {string} above @returns {Promise<Named[]>} */
async function filesOf(entry, above) {
  const name = above + entry.name;
  if (entry.isFile) {
    const own = /** @type {FileSystemFileEntry} */ (entry);
    return [{name, file: await new Promise((resolve, reject) => own.file(resolve, reject))}];
  }
  const reader = /** @type {FileSystemDirectoryEntry} */ (entry).createReader();
  const found = [];
  for (;;) {
    /** @type {FileSystemEntry[]} */
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)); // 100 at most
    if (!some.length) return found;
    for (const one of some) found.push(...(await filesOf(one, `${name}/`)));
  }
}

export class Uploader {
  /** @param {HTMLElement} dock where progress is shown */
  constructor(dock) {
    this.dock = dock;
    /** @type {Entry[]} */
    this.entries = [];
    /** @type {string[]} */
    this.studies = [];
    this.said = "";
    this.running = 0;
    this.stop = new AbortController();
    const room = () => document.documentElement.style.setProperty("--dock", `${dock.offsetHeight}px`);
    new ResizeObserver(room).observe(dock);
    addEventListener("beforeunload", event => this.running && event.preventDefault());
  }

  /** Send files; zips each as a whole, all others as one upload. @param {Named[]} files hidden ones are left out */
  async add(files) {
    const entries = files
      .filter(({name}) => !/(^|\/)\./.test(name))
      .map(named => /** @type {Entry} */ ({...named, state: "waiting", sent: 0, why: ""}));
    if (!entries.length) return notify("The folder holds no file.");
    if (!this.running) Object.assign(this, {entries: [], studies: [], said: "", stop: new AbortController()});
    this.entries.push(...entries);
    this.running++;
    this.#show();
    const isZip = (/** @type {Entry} */ {name}) => /\.zip$/i.test(name);
    try {
      for (const zip of entries.filter(isZip)) await this.#sendZip(zip);
      await this.#sendTogether(entries.filter(entry => !isZip(entry)));
    } catch (error) {
      if (!this.stop.signal.aborted) this.said = /** @type {Error} */ (error).message;
    }
    this.running--;
    this.#show();
    announce(this.#summary());
  }

  /** @param {Entry} entry */
  async #sendZip(entry) {
    const text = await this.#sendEntry(entry, "POST", "/studies", "application/zip");
    if (text !== null) this.#accepted(JSON.parse(text));
  }

  /** @param {Entry[]} entries */
  async #sendTogether(entries) {
    if (!entries.length) return;
    const {signal} = this.stop;
    const {upload} = JSON.parse(await insistently(signal, () => send("POST", "/uploads", {signal})));
    const waiting = entries.map((entry, n) => ({entry, n}));
    const sendOn = async () => {
      for (let next = waiting.shift(); next && !signal.aborted; next = waiting.shift()) {
        await this.#sendEntry(next.entry, "PUT", `/uploads/${upload}/files/${next.n}`, "application/octet-stream");
      }
    };
    await Promise.all(Array.from({length: AT_ONCE}, sendOn));
    if (signal.aborted || !entries.some(({state}) => state === "sent")) return;
    this.#accepted(JSON.parse(await insistently(signal, () => send("POST", `/uploads/${upload}/complete`, {signal}))));
  }

  /**
   * Send one file until it is taken or refused.
   * @param {Entry} entry @param {string} method @param {string} path @param {string} type
   * @returns {Promise<string | null>} the answer, null where it was not taken
   */
  async #sendEntry(entry, method, path, type) {
    const {signal} = this.stop;
    const progress = (/** @type {number} */ sent) => {
      entry.sent = sent;
      this.#show();
    };
    entry.state = "sending";
    try {
      const text = await insistently(signal, () => send(method, path, {body: entry.file, type, signal, progress}));
      Object.assign(entry, {state: "sent", sent: entry.file.size});
      return text;
    } catch (error) {
      const {status, detail, message} = /** @type {ApiError} */ (error);
      const isRefused = [413, 415, 422].includes(status);
      Object.assign(entry, isRefused ? {state: "refused", why: spelled(detail || message)} : {state: "failed", why: message});
      return null;
    } finally {
      this.#show();
    }
  }

  /** @param {Accepted} accepted */
  #accepted({studies, refused}) {
    this.studies.push(...studies.map(({study}) => study));
    const reasons = reasonList(refused ?? {});
    if (reasons) this.said = `Refused: ${reasons}.`;
  }

  /** @param {Entry["state"]} state */
  #in(state) {
    return this.entries.filter(entry => entry.state === state);
  }

  #summary() {
    const [sent, refused, failed] = [this.#in("sent"), this.#in("refused"), this.#in("failed")];
    const others = (refused.length ? `, ${refused.length} refused` : "") + (failed.length ? `, ${failed.length} failed` : "");
    const verb = this.running ? "Sending…" : "Sent";
    return `${verb} ${sent.length} of ${count(this.entries.length, "file")}${others}.`;
  }

  #show() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = undefined;
      this.#draw();
    });
  }

  /** @type {number | undefined} */
  frame = undefined;

  #draw() {
    const total = this.entries.reduce((sum, {file}) => sum + file.size, 0);
    const sent = this.entries.reduce((sum, entry) => sum + (entry.state === "refused" ? entry.file.size : entry.sent), 0);
    const shown = [...this.#in("refused"), ...this.#in("failed"), ...this.#in("sending")].slice(0, N_SHOWN);
    const failed = this.#in("failed");
    this.dock.hidden = false;
    this.dock.replaceChildren(
      el("p", {}, el("strong", {}, this.#summary())),
      el("progress", {max: total || 1, value: sent, "aria-label": "All files"}),
      note(`${megabytes(sent)} of ${megabytes(total)}. ${this.said}`),
      el("ul", {}, ...shown.map(line)),
      el(
        "p",
        {class: "actions"},
        ...this.studies.slice(0, 5).map(study => el("a", {href: `#/study/${study}`}, `Study ${study.slice(0, 8)}`)),
        this.running
          ? button("Stop", () => this.stop.abort(new Error("stopped")))
          : button("Close", () => (this.dock.hidden = true)),
        !this.running && failed.length > 0 && button("Send failed ones again", () => void this.add(failed))
      )
    );
  }
}

/** @param {Entry} entry */
function line({name, file, state, sent, why}) {
  const bar = state === "sending" && el("progress", {max: file.size || 1, value: sent, "aria-label": name});
  return el("li", {class: state}, el("bdi", {}, name), bar, why && el("small", {}, why));
}

/**
 * Send a request with a body; fetch does not tell how far it is, this does.
 * @param {string} method @param {string} path
 * @param {{body?: Blob, type?: string, signal: AbortSignal, progress?: (sent: number) => void}} options
 * @returns {Promise<string>} the text of a good answer
 */
function send(method, path, {body, type, signal, progress}) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open(method, ROOT + path);
    request.setRequestHeader("X-Requested-With", "rsna_e2e");
    if (type) request.setRequestHeader("Content-Type", type);
    request.upload.onprogress = event => progress?.(event.loaded);
    request.onerror = () => reject(new ApiError(0, {}));
    request.onabort = () => reject(signal.reason);
    request.onload = () => {
      if (request.status >= 200 && request.status < 300) return resolve(request.responseText);
      if (request.status === 401) toLogin();
      const headers = {"Retry-After": request.getResponseHeader("Retry-After") ?? ""};
      void refusal(new Response(request.responseText, {status: request.status, headers})).then(reject);
    };
    signal.addEventListener("abort", () => request.abort(), {once: true});
    request.send(body);
  });
}

/**
 * Do it again while that may help, waiting as long as the service says, or longer each time.
 * @template Answer
 * @param {AbortSignal} signal @param {() => Promise<Answer>} once @returns {Promise<Answer>}
 */
async function insistently(signal, once) {
  for (let failures = 0; ; failures++) {
    signal.throwIfAborted();
    try {
      return await once();
    } catch (error) {
      if (!(error instanceof ApiError && error.passes) || failures + 1 >= TRIES) throw error;
      await pause(error.retryAfterS * 1000 || FIRST_PAUSE_MS * 2 ** failures, signal);
    }
  }
}

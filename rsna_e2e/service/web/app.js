// The shell: who is logged in, which view the address asks for, and files dropped anywhere.

import {getJson, post} from "./api.js";
import {LETTERS_OFF} from "./controls.js";
import {byId, el, notify} from "./dom.js";
import {showList} from "./list.js";
import {showStudy} from "./study.js";
import {dropped, Uploader} from "./upload.js";
/** @import {Session} from "../web_types" */

const STUDY = /^#\/study\/([0-9a-f]{8,64})(?:\/([0-9a-f]{8,64}))?(?:\?(.*))?$/;
const LIST = /^#\/(?:\?(.*))?$/;

const main = byId("main");
const uploader = new Uploader(byId("uploads"));
let view = new AbortController(); // aborts when the reader leaves the view

/** @type {Session} */
let session;

/** Show what the address asks for. @param {boolean} [moved] whether the reader came from another view */
async function show(moved = true) {
  view.abort();
  view = new AbortController();
  const {signal} = view;
  const [, study, series, ofStudy] = STUDY.exec(location.hash) ?? [];
  const [, ofList] = LIST.exec(location.hash) ?? [];
  document.title = study ? `Study ${study} – rsna_e2e` : "Studies – rsna_e2e";
  document.body.dataset.view = study ? "study" : "list";
  notify("");
  try {
    const again = () => void show(false);
    if (study) await showStudy(main, {study, series, params: new URLSearchParams(ofStudy)}, {signal, session, again});
    else await showList(main, new URLSearchParams(ofList), {signal, uploader: session.role === "read" ? null : uploader});
  } catch (error) {
    if (signal.aborted) return;
    main.replaceChildren(study ? el("p", {class: "list"}, el("a", {href: "#/"}, "Go back to the list")) : "");
    notify(error);
  }
  if (moved && !signal.aborted) main.querySelector("h1")?.focus();
}

function listenToDrops() {
  const veil = byId("veil");
  const hasFiles = (/** @type {DragEvent} */ event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragover", event => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    veil.hidden = false;
  });
  addEventListener("dragleave", event => (veil.hidden ||= event.relatedTarget === null));
  addEventListener("drop", async event => {
    veil.hidden = true;
    if (!event.dataTransfer || !hasFiles(event)) return;
    event.preventDefault();
    try {
      await uploader.add(await dropped(event.dataTransfer));
    } catch (error) {
      notify(`What was dropped cannot be read (${error}). Choose it with the buttons of the list.`);
    }
  });
}

function listenToShell() {
  byId("notice-close").addEventListener("click", () => notify(""));
  byId("help-open").addEventListener("click", () => byId("help").showModal());
  byId("log-out").addEventListener("click", async () => {
    await post("/logout").catch(() => undefined); // the session may have ended by itself
    location.assign("/login");
  });
  byId("skip").addEventListener("click", (/** @type {Event} */ event) => {
    event.preventDefault(); // the hash is the view's
    main.focus();
  });
  const lettersOn = byId("letters-on");
  lettersOn.checked = !localStorage.getItem(LETTERS_OFF);
  lettersOn.addEventListener("change", () =>
    lettersOn.checked ? localStorage.removeItem(LETTERS_OFF) : localStorage.setItem(LETTERS_OFF, "1")
  );
  addEventListener("hashchange", () => void show());
  addEventListener("pageshow", event => event.persisted && location.reload()); // after a logout, nothing old comes back
}

async function start() {
  listenToShell();
  try {
    session = await getJson("/me");
  } catch (error) {
    return notify(error);
  }
  byId("who").textContent = `${session.name} (${session.role})`;
  if (session.role !== "read") listenToDrops();
  await show(false);
}

void start();

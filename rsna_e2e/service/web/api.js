// Requests to the service, and what it answers. Errors come as `ApiError`, whose message says what to do.

import {notify} from "./dom.js";
/** @import {HeatMap, Page} from "../web_types" */

export const ROOT = "/api/v1";

const WAIT_S = 25; // of a request for changes
const LONGEST_PAUSE_MS = 30_000; // between two tries

/** @typedef {{title?: string, detail?: string}} Problem */

/** The service's answer to a request that it did not fulfil; status 0 where there was none. */
export class ApiError extends Error {
  /** @param {number} status @param {Problem} problem @param {number} [retryAfterS] */
  constructor(status, problem, retryAfterS = 0) {
    super(advice(status, problem, retryAfterS));
    this.status = status;
    this.detail = problem.detail ?? "";
    this.retryAfterS = retryAfterS;
  }

  /** Whether the same request may succeed later. */
  get passes() {
    return this.status === 0 || this.status === 408 || this.status === 429 || this.status >= 500;
  }
}

/**
 * What happened, and what to do, in one line.
 * @param {number} status @param {Problem} problem @param {number} retryAfterS
 */
function advice(status, problem, retryAfterS) {
  const detail = problem.detail || problem.title;
  const said = detail ? ` (${detail})` : "";
  const later = retryAfterS ? `in ${retryAfterS} s` : "in a moment";
  if (status === 0) return "The service cannot be reached. Check the network; it is tried again by itself.";
  if (status === 401) return "You are not logged in any more. Log in again.";
  if (status === 403) return `Your account may not do this${said}. Ask who runs the service for another role.`;
  if (status === 404) return `This is not here, or not any more${said}. Go back to the list.`;
  if (status === 409) return `Not now${said}. Wait until the study is done, then try again.`;
  if (status === 413) return `Too large for the service${said}. Send it in parts.`;
  if (status === 429) return `The service is asked too often${said}. Try again ${later}.`;
  if (status === 507) return `The service's disk is full${said}. Tell who runs it.`;
  if (status >= 500)
    return `The service failed, error ${status}${said}. Try again ${later}; if it stays, tell who runs it.`;
  return `The service refused this, error ${status}${said}.`;
}

/** Leave for the login page, which leads back to where the reader is. */
export function toLogin() {
  location.assign(`/login${location.hash}`);
}

/** What an answer that is no good one says. @param {Response} response */
export async function refusal(response) {
  const text = await response.text();
  const problem = text.startsWith("{") ? JSON.parse(text) : {}; // else a proxy's page, or nothing
  return new ApiError(response.status, problem, Number.parseInt(response.headers.get("Retry-After") ?? "0", 10) || 0);
}

/**
 * Send a request; return its answer when that is a good one.
 * @param {string} path below /api/v1 @param {RequestInit & {stays?: boolean}} [options] stays: 401 does not lead to the
 * login page @returns {Promise<Response>}
 */
export async function request(path, {stays = false, ...options} = {}) {
  const headers = {"X-Requested-With": "rsna_e2e", ...options.headers};
  let response;
  try {
    response = await fetch(ROOT + path, {...options, headers, credentials: "same-origin"});
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new ApiError(0, {});
  }
  if (response.ok) return response;
  if (response.status === 401 && !stays) toLogin();
  throw await refusal(response);
}

/** @param {string} path @param {AbortSignal} [signal] @returns {Promise<any>} */
export const getJson = async (path, signal) => (await request(path, {signal})).json();

/** @param {string} path @param {object} [body] @returns {Promise<Response>} */
export const post = (path, body) =>
  request(path, {
    method: "POST",
    ...(body && {body: JSON.stringify(body), headers: {"Content-Type": "application/json"}})
  });

/** A query without empty values: "?state=done" or "". @param {Record<string, string | number | null | undefined>} values */
export function query(values) {
  const given = Object.entries(values).filter(([, value]) => value != null && value !== "");
  return given.length ? `?${new URLSearchParams(given.map(([name, value]) => [name, String(value)]))}` : "";
}

/** A query with further values. @param {string} given "" or "?…" @param {Record<string, string | number>} values */
export const extended = (given, values) => query({...Object.fromEntries(new URLSearchParams(given)), ...values});

/** Where a series lies. @param {string} study @param {string} key */
export const seriesPath = (study, key) => `/studies/${study}/series/${key}`;

/**
 * @param {string} path of a slice @param {number} nPixels that it has to have @param {AbortSignal} signal
 * @returns {Promise<Int16Array>} rows x columns, in HU or grey values; Int16Array is little-endian wherever browsers run
 */
export async function getSlice(path, nPixels, signal) {
  const response = await request(path, {signal});
  const values = new Int16Array(await response.arrayBuffer());
  if (values.length !== nPixels) throw new Error("This slice has not the size of its series and cannot be shown.");
  return values;
}

/** @param {string} path of a map @param {AbortSignal} signal @returns {Promise<HeatMap>} */
export async function getHeatMap(path, signal) {
  const response = await request(path, {signal});
  const affine = (response.headers.get("X-Affine") ?? "").split(",").map(Number);
  if (affine.length !== 6 || !affine.every(Number.isFinite)) throw new Error("The map does not say where it lies.");
  return {values: new Uint8Array(await response.arrayBuffer()), affine};
}

/** Wait; ends early, with an error, when the signal aborts. @param {number} ms @param {AbortSignal} [signal] */
export function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}

/**
 * Repeat until it says false or the signal aborts. What fails and may pass is said and tried again after 1, 2, 4 .. 30 s,
 * or when the service says.
 * @param {AbortSignal} signal
 * @param {(recovers: boolean) => Promise<boolean>} once whether to go on; recovers: the last time failed
 */
export async function repeat(signal, once) {
  for (let failures = 0; !signal.aborted;) {
    try {
      if (!(await once(failures > 0))) return;
      if (failures) notify("");
      failures = 0;
    } catch (error) {
      if (signal.aborted) return;
      notify(error);
      if (!(error instanceof ApiError && error.passes)) return;
      const wait = error.retryAfterS * 1000 || Math.min(1000 * 2 ** failures++, LONGEST_PAUSE_MS);
      await pause(wait, signal).catch(() => undefined);
    }
  }
}

/**
 * Follow the list by long polls: its version rises with every change of a study.
 * @param {AbortSignal} signal @param {Parameters<typeof query>[0]} wanted
 * @param {(page: Page) => unknown} changed told each new page, the first at once; false ends it
 */
export function followList(signal, wanted, changed) {
  let known = -1;
  return repeat(signal, async recovers => {
    const since = known < 0 || recovers ? {} : {after: known, wait: WAIT_S};
    const page = await getJson(`/studies${query({...wanted, ...since})}`, signal);
    if (page.version === known) await pause(500, signal); // the service may answer before there is anything new
    else if ((await changed(page)) === false) return false;
    known = page.version;
    return true;
  });
}

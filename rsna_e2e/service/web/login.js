// The login page: by name and password, or by a one-time token in the address, which is taken out of it at once.

import {request} from "./api.js";
import {byId} from "./dom.js";

const form = byId("login");
const error = byId("notice-text");

/** @param {object} body */
async function logIn(body) {
  form.inert = true;
  error.textContent = "";
  try {
    const headers = {"Content-Type": "application/json"};
    await request("/login", {method: "POST", stays: true, body: JSON.stringify(body), headers});
    location.replace(`/${/^#\//.test(location.hash) ? location.hash : ""}`);
  } catch (problem) {
    const {status, message} = /** @type {import("./api.js").ApiError} */ (problem);
    error.textContent =
      status === 401 ? "Name, password or token is not right. Try again, or ask who runs the service." : message;
  }
  form.inert = false;
  byId("password").focus();
}

const token = /^#token=(.+)$/.exec(location.hash)?.[1];
if (token) {
  history.replaceState(null, "", location.pathname);
  void logIn({token: decodeURIComponent(token)});
}

form.addEventListener("submit", (/** @type {SubmitEvent} */ event) => {
  event.preventDefault();
  void logIn({name: byId("name").value, password: byId("password").value});
});

// The page: a form that makes jobs, and a card for every run. A run is one request, made by one or more versions.

import * as api from "./api.js";
import { card, dropJob, showJob } from "./card.js";
import { make } from "./make.js";

const $ = (selector) => document.querySelector(selector);
const files = { first_frame: null, last_frame: null };
const KINDS = ["image/png", "image/jpeg", "image/webp"];
const MAX_BYTES = 20_000_000;

function say(text) {
  $("#said").textContent = text;
}

function complain(message, field = null) {
  const box = $("#problem");
  box.textContent = field ? named(message, field) : message;
  box.hidden = !message;
  for (const marked of document.querySelectorAll("[aria-invalid]")) marked.removeAttribute("aria-invalid");
  for (const drop of document.querySelectorAll(".drop")) drop.classList.toggle("wrong", drop.dataset.name === field);
  if (!message) return;
  const input = field && (document.getElementById(field) ?? document.querySelector(`[name="${CSS.escape(field)}"]`));
  if (input) {
    input.closest("details")?.setAttribute("open", "");
    input.setAttribute("aria-invalid", "true");
    input.focus();
  } else box.focus();
}

// The service speaks of "num_frames"; the page calls it what its label says.
function named(message, field) {
  const input = document.querySelector(`[name="${CSS.escape(field)}"]`);
  const label = input?.parentNode.firstChild.textContent.trim();
  return label && message.startsWith(`${field}:`) ? label + message.slice(field.length) : message;
}

function choose(drop, file) {
  const name = drop.dataset.name, image = drop.querySelector("img"), clear = drop.querySelector("button");
  const label = drop.querySelector("b").textContent;
  if (file && !KINDS.includes(file.type)) {
    drop.querySelector("input").value = "";
    return complain(`${label}: “${file.name}” is no PNG, JPEG or WebP picture.`, name);
  }
  if (file && file.size > MAX_BYTES) {
    return complain(`${label}: “${file.name}” is larger than ${MAX_BYTES / 1e6} MB; scale it down first.`, name);
  }
  if (image.src) URL.revokeObjectURL(image.src);
  files[name] = file;
  drop.classList.toggle("full", Boolean(file));
  image.hidden = clear.hidden = !file;
  if (file) {
    image.src = URL.createObjectURL(file);
    image.alt = `${label}: ${file.name}`;
    complain("");
    say(`${label}: ${file.name}`);
  } else {
    image.removeAttribute("src");
    drop.querySelector("input").value = "";
  }
}

for (const drop of document.querySelectorAll(".drop")) {
  const input = drop.querySelector("input");
  input.addEventListener("change", () => input.files[0] && choose(drop, input.files[0]));
  drop.querySelector("button").addEventListener("click", () => {
    choose(drop, null);
    input.focus();
  });
  for (const name of ["dragenter", "dragover"]) {
    drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
  }
  for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files[0]) choose(drop, event.dataTransfer.files[0]);
  });
}

function settings(pair, seed) {
  const form = new FormData();
  form.append("prompt", $("#prompt").value);
  for (const [name, file] of Object.entries(files)) if (file) form.append(name, file);
  for (const input of document.querySelectorAll(".settings input")) {
    if (input.value.trim()) form.set(input.name, input.value.trim());
  }
  if (pair) form.set("pair", pair);
  if (seed !== null) form.set("seed", seed);
  return form;
}

$("#make").addEventListener("submit", async (event) => {
  event.preventDefault();
  complain("");
  if (!files.first_frame) return complain("First frame: choose a picture that the video starts from.", "first_frame");
  if (!$("#prompt").value.trim()) return complain("Say what is seen, and how the camera moves.", "prompt");
  const wrong = [...document.querySelectorAll(".settings input")].find((input) => input.validity.badInput);
  if (wrong) return complain(`${wrong.parentNode.firstChild.textContent}: expected a number.`, wrong.name);
  const pairs = [...document.querySelectorAll("#versions input:checked")].map((input) => input.value);
  // Versions are compared on one seed: without one of the person's own, a fresh one for all of them.
  const typed = document.querySelector("[name=seed]").value.trim();
  const seed = typed || (pairs.length > 1 ? String(Math.floor(Math.random() * 2 ** 31)) : null);
  const button = $("#make .main");
  button.disabled = true;
  const run = card($("#prompt").value.trim(), actions);
  try {
    for (const pair of pairs.length ? pairs : [""]) add(run, await api.create(settings(pair, seed)));
    say(pairs.length > 1 ? `${pairs.length} videos are queued.` : "The video is queued.");
  } catch (error) {
    if (error.status === 401) $("#access").open = true;
    complain(error.message, error.status === 401 ? "key" : error.param);
  } finally {
    button.disabled = false;
  }
});

function add(run, job) {
  if (!run.isConnected) $("#runs").prepend(run);
  $("#none").hidden = true;
  showJob(run, job);
  if (job.status === "completed" || job.status === "failed") return;
  api.watch(job.id, (state) => {
    showJob(run, state);
    if (state.status === "completed") say("A video is ready.");
    if (state.status === "failed") say(`A video was not made: ${state.error?.message ?? "no reason was given"}`);
  }).catch((error) => complain(error.message));
}

const actions = {
  async cancel(job) {
    try {
      await api.cancel(job.id);
      say("Stopping at the next step.");
    } catch (error) {
      complain(error.message);
    }
  },
  async remove(job, run) {
    try {
      await api.remove(job.id);
      dropJob(run, job.id);
      $("#none").hidden = Boolean(document.querySelector(".run"));
      $("#results").focus();
      say("The video is deleted.");
    } catch (error) {
      complain(error.message);
    }
  },
};

function version(model, checked) {
  const label = make("label"), input = make("input", "", { type: "checkbox" }), words = make("span", model.label ?? model.id);
  input.value = model.id;
  input.checked = checked;
  input.disabled = Boolean(model.note);
  for (const alias of model.aliases) words.append(make("span", alias, { class: `alias alias-${alias}` }));
  if (model.note) words.append(make("span", model.note, { class: "remark" }));
  if (model.alarm) words.append(make("span", `Got worse than promoted: ${model.alarm}.`, { class: "remark" }));
  label.append(input, words);
  return label;
}

// Jobs of one prompt and seed stand side by side, as they were compared.
function grouped(jobs) {
  const runs = new Map();
  for (const job of jobs) {
    const key = JSON.stringify([job.prompt, job.request?.seed]);
    if (!runs.has(key)) runs.set(key, card(job.prompt ?? "", actions));
    add(runs.get(key), job);
  }
}

let chosen = null; // ids of the versions that the person chose; null: what serves

async function showVersions() {
  const known = await api.models();
  const base = known.find((model) => model.kind === "base"), serving = known.find((model) => model.serving);
  const adapter = serving && serving !== base ? ` with ${serving.id}` : ", no adapter";
  const alarm = serving?.alarm ? ": got worse than promoted" : "";
  $("#serving").textContent = (base?.id ?? "unknown model") + adapter + alarm;
  $("#serving").classList.toggle("alarming", Boolean(alarm));
  const pairs = known.filter((model) => model.kind !== "base" && (model.kind !== "alias" || model.note));
  if (pairs.length) pairs.push({ id: "none", aliases: [], label: "the base alone" });
  $("#versions").hidden = !pairs.length;
  const ticked = (model) => (chosen ? chosen.includes(model.id) : model === serving);
  $("#versions .choices").replaceChildren(...pairs.map((model) => version(model, ticked(model))));
}

$("#versions").addEventListener("change", () => {
  chosen = [...document.querySelectorAll("#versions input:checked")].map((input) => input.value);
});

// A promotion, or an alarm, is seen without loading the page again.
setInterval(() => {
  if (document.hidden || $("#versions").contains(document.activeElement)) return;
  showVersions().catch(() => { /* whoever makes a video is told */ });
}, 30_000);

async function start() {
  try {
    await showVersions();
    grouped((await api.recent()).reverse());
  } catch (error) {
    if (error.status === 401) $("#access").open = true;
    $("#serving").textContent = error.message;
    if (error.status !== 401) complain(error.message);
  }
}

$("#key").value = api.getKey();
$("#key").addEventListener("change", () => {
  api.setKey($("#key").value);
  $("#runs").replaceChildren();
  complain("");
  start();
});
start();

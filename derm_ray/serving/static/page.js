// The page of the endpoint: calls /v1/model and /v1/score and shows the results. Nothing is stored or sent elsewhere.
import { showPatientFields, patientValues } from "./patient.js";
import { showResult } from "./result.js";

const $ = (id) => document.getElementById(id);
const files = {};
let model = null;
let loads = 0;
let scoring = false;
let chosen = 0; // counts the choices, so that no answer is shown beside other photos or patient data

class Refused extends Error {}

async function ask(path, options = {}) {
  const token = $("token").value.trim();
  const headers = token ? { authorization: `Bearer ${token}` } : {};
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store" });
  } catch {
    throw new Refused("No response. The endpoint may have stopped, or an image may be larger than 25 MB.");
  }
  const body = await response.json().catch(() => null);
  if (response.ok) return body;
  if (response.status === 401) $("token-field").hidden = false;
  const wait = response.headers.get("retry-after");
  const detail = response.status === 401
    ? (token ? "This token is not valid." : "This endpoint requires a token.")
    : (body?.detail ?? "The endpoint is too busy, or took too long.");
  const code = body?.code ?? `status ${response.status}`;
  throw new Refused(`${detail}${wait ? ` Try again in ${wait} s.` : ""} (${code})`);
}

function say(problem) {
  $("error").replaceChildren();
  if (!problem) return;
  const line = document.createElement("p");
  line.textContent = problem;
  $("error").append(line);
}

async function loadModel() {
  loads += 1;
  const load = loads;
  let loaded = null;
  let problem = "";
  try {
    loaded = await ask("v1/model");
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    problem = error.message;
  }
  if (load !== loads) return; // a later question is on its way
  model = loaded;
  showPatientFields(model?.patient_fields ?? []);
  $("card-details").hidden = !model;
  $("card").textContent = model ? model.card : "";
  $("model").textContent = model
    ? `${model.network} network, ${model.classes.length} classes (${model.label_set}), ` +
      `engine ${model.engine}, digest ${model.model_digest.slice(0, 12)}.`
    : problem;
}

function choose(drop, file) {
  const modality = drop.dataset.modality;
  const image = drop.querySelector("img");
  if (image.src) URL.revokeObjectURL(image.src);
  image.removeAttribute("src");
  image.hidden = true;
  drop.querySelector(".remove").hidden = !file;
  chosen += 1;
  $("result").hidden = true;
  say("");
  if (!file) {
    delete files[modality];
    drop.querySelector("input").value = "";
    return;
  }
  files[modality] = file;
  image.onload = () => { image.hidden = false; };
  image.src = URL.createObjectURL(file); // a format the browser cannot show is sent all the same
}

for (const drop of document.querySelectorAll(".drop")) {
  const input = drop.querySelector("input");
  input.addEventListener("change", () => input.files.length && choose(drop, input.files[0]));
  drop.querySelector(".remove").addEventListener("click", () => { choose(drop, null); input.focus(); });
  drop.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    drop.classList.remove("over");
    const [file] = event.dataTransfer.files;
    if (!file) return;
    const one = new DataTransfer();
    one.items.add(file);
    input.files = one.files; // so that the field names it
    choose(drop, file);
  });
}
// A photo dropped beside a field must not replace the page.
for (const name of ["dragover", "drop"]) window.addEventListener(name, (event) => event.preventDefault());

$("patient").addEventListener("change", () => {
  chosen += 1;
  $("result").hidden = true;
  say("");
});

async function score(sent) {
  if (!sent.clinical && !sent.dermoscopy) throw new Refused("Choose a clinical photo or a dermoscopy image first.");
  if (!model) await loadModel();
  const form = new FormData();
  for (const [modality, file] of Object.entries(sent)) form.append(modality, file, modality);
  const patient = patientValues();
  if (Object.keys(patient).length) form.append("patient", JSON.stringify(patient));
  if (model?.saliency) form.append("saliency", "png");
  const answer = await ask("v1/score", { method: "POST", body: form });
  if (answer.model_digest !== model?.model_digest) await loadModel(); // another model took over meanwhile
  if (!model) throw new Refused($("model").textContent);
  if (answer.model_digest !== model.model_digest) throw new Refused("The model is being updated. Score again.");
  return answer;
}

$("token").addEventListener("change", () => { say(""); loadModel(); });
$("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (scoring) return;
  scoring = true;
  say("");
  $("send").setAttribute("aria-disabled", "true");
  $("status").textContent = "Scoring…";
  try {
    const sent = { ...files };
    const choice = chosen;
    const answer = await score(sent);
    if (choice === chosen) showResult(answer, model, sent);
    $("status").textContent = choice === chosen ? "" : "What is to be scored has changed: score again.";
  } catch (error) {
    $("result").hidden = true;
    $("status").textContent = "";
    say(error instanceof Refused ? error.message : `The page could not show the answer (${error.message}).`);
    if (!(error instanceof Refused)) throw error;
  } finally {
    scoring = false;
    $("send").removeAttribute("aria-disabled");
  }
});

loadModel();

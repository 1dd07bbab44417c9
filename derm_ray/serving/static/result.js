// Renders a response of /v1/score.

const $ = (id) => document.getElementById(id);
const MODALITIES = { clinical: "clinical photo", dermoscopy: "dermoscopy image" };
const SHOWN = 5;
let urls = [];

function element(kind, properties = {}, ...children) {
  const made = Object.assign(document.createElement(kind), properties);
  made.append(...children);
  return made;
}

function percent(p) {
  if (p < 0.0005) return "< 0.1 %";
  if (p < 1 && p >= 0.9995) return "> 99.9 %";
  return `${(100 * p).toFixed(1)} %`;
}

const ranked = (probabilities) => Object.entries(probabilities).sort((a, b) => b[1] - a[1]);

function bar(share, ticks = []) {
  const made = element("div", { className: "bar", ariaHidden: "true" });
  const fill = element("div", { className: "fill" });
  fill.style.width = `${100 * share}%`;
  made.append(fill);
  for (const at of ticks) {
    const tick = element("div", { className: "tick" });
    tick.style.left = `${100 * at}%`;
    made.append(tick);
  }
  return made;
}

function showRanking(answer, titles) {
  const row = ([name, p]) =>
    element("li", {}, element("div", { className: "line" }, element("span", { textContent: titles[name] }),
      element("span", { textContent: percent(p) })), bar(p));
  const rows = ranked(answer.probabilities).map(row);
  $("ranking").replaceChildren(...rows);
  if (rows.length <= SHOWN) return;
  const rest = rows.slice(SHOWN);
  for (const hidden of rest) hidden.hidden = true;
  const more = element("button", { type: "button", textContent: `Show all ${rows.length}` });
  more.addEventListener("click", () => {
    for (const hidden of rest) hidden.hidden = false;
    more.parentElement.remove();
    rest[0].tabIndex = -1;
    rest[0].focus();
  });
  $("ranking").append(element("li", {}, more));
}

function showTasks(answer, model) {
  const kind = answer.modality === "both" ? "cross" : answer.modality;
  const shown = model.tasks.map((task) => {
    const probability = answer.task_probabilities[task.name];
    const points = model.operating_points.filter((point) => point.kind === kind && point.task === task.name);
    const lines = points.map((point) => {
      const above = answer.above_threshold[point.name];
      const verdict = element("span", {
        className: above ? "above" : "",
        textContent: above ? "above" : "below",
      });
      const validation = `${percent(point.sensitivity)} sensitivity, ${percent(point.specificity)} specificity on validation`;
      const target = `for ${Math.round(100 * point.target)} % sensitivity`;
      return element("li", {}, `Threshold ${target}: ${percent(point.threshold)} (reached ${validation}): `, verdict);
    });
    const counted = task.positive.map((name) => model.titles[name]).join(", ");
    return element("div", { className: "task" },
      element("div", { className: "line" }, element("strong", { textContent: task.title }),
        element("span", { textContent: percent(probability) })),
      bar(probability, points.map((point) => point.threshold)),
      element("p", { className: "counts", textContent: `Sum of: ${counted}.` }),
      lines.length ? element("ul", { ariaLabel: `Operating points: ${task.title}` }, ...lines)
        : element("p", { textContent: "This model has no operating points for this task." }));
  });
  $("tasks").replaceChildren(...shown);
  if (!shown.length) $("tasks").textContent = "This model's label set defines no task.";
}

/** Describe which image alone gives the same diagnosis as both together. */
export function agreement(answer, titles) {
  const agrees = (kind) => answer.per_input_diagnoses[kind] === answer.diagnosis;
  const alone = (kind) => {
    const name = answer.per_input_diagnoses[kind];
    return `the ${MODALITIES[kind]} alone gives ${titles[name]} (${percent(answer.per_input_predictions[kind][name])})`;
  };
  const agreeing = Object.keys(MODALITIES).filter(agrees);
  if (agreeing.length === 2) return `Each image alone gives the same diagnosis: ${titles[answer.diagnosis]}.`;
  if (agreeing.length === 0) {
    return `Neither image alone gives ${titles[answer.diagnosis]}: ${alone("clinical")}, ${alone("dermoscopy")}.`;
  }
  const [same] = agreeing;
  const other = same === "clinical" ? "dermoscopy" : "clinical";
  return `The ${MODALITIES[same]} alone gives the same diagnosis ` +
    `(${percent(answer.per_input_predictions[same][answer.diagnosis])}); ${alone(other)}.`;
}

function showPerInput(answer, titles) {
  $("per-input").hidden = answer.modality !== "both";
  if (answer.modality !== "both") return;
  $("agreement").textContent = agreement(answer, titles);
  const kinds = { clinical: "Clinical", dermoscopy: "Dermoscopy", cross: "Both" };
  const given = answer.per_input_diagnoses;
  const names = ranked(answer.per_input_predictions.cross).map(([name]) => name);
  const shown = names.filter((name, rank) => rank < SHOWN || Object.values(given).includes(name));
  const header = (textContent, scope) => element("th", { textContent, scope });
  $("table").replaceChildren(
    element("thead", {}, element("tr", {}, header("Diagnosis", "col"),
      ...Object.values(kinds).map((title) => header(title, "col")))),
    element("tbody", {}, ...shown.map((name) => element("tr", {}, header(titles[name], "row"),
      ...Object.keys(kinds).map((kind) => element("td", {
        textContent: percent(answer.per_input_predictions[kind][name]),
        className: given[kind] === name ? "first" : "",
      }))))));
}

function showOverlays(answer, model, photos) {
  for (const url of urls) URL.revokeObjectURL(url);
  urls = [];
  $("no-saliency").hidden = model.saliency;
  $("looking").hidden = !model.saliency;
  const figures = Object.entries(answer.saliency).map(([modality, png]) => {
    const url = URL.createObjectURL(photos[modality]);
    urls.push(url);
    const photo = element("img", { src: url, alt: `The ${MODALITIES[modality]}` });
    const overlay = element("img", {
      src: `data:image/png;base64,${png}`,
      alt: `Overlay of the ${MODALITIES[modality]}: red marks high saliency`,
      className: "overlay",
    });
    photo.onerror = () => { photo.remove(); overlay.className = "alone"; }; // no format for browsers, such as DICOM
    return element("figure", {}, element("div", { className: "layers" }, photo, overlay),
      element("figcaption", { textContent: MODALITIES[modality] }));
  });
  $("overlays").replaceChildren(...figures);
}

$("opacity").addEventListener("input", () => {
  $("opacity-value").textContent = `${$("opacity").value} %`;
  $("overlays").style.setProperty("--opacity", $("opacity").value / 100);
});

/**
 * Show an answer.
 * @param answer the response of /v1/score
 * @param model the response of /v1/model
 * @param photos the files that were sent, by modality
 */
export function showResult(answer, model, photos) {
  const basis = answer.modality === "both" ? "both images" : `the ${MODALITIES[answer.modality]} alone`;
  $("result-title").textContent = `${model.titles[answer.diagnosis]}, ${percent(answer.confidence)}`;
  $("basis").textContent = `Based on ${basis}. ${answer.notice}`;
  showRanking(answer, model.titles);
  showTasks(answer, model);
  showPerInput(answer, model.titles);
  showOverlays(answer, model, photos);
  const flags = answer.flags.length ? ` Flags: ${answer.flags.join(", ").replaceAll("_", " ")}.` : "";
  $("provenance").textContent = `Model ${answer.model_digest}.${flags}`;
  $("result").hidden = false;
  $("result-title").focus();
}

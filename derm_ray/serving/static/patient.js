// The form's fields of patient data, those that the model uses.

const $ = (id) => document.getElementById(id);
const plain = (name) => name.replaceAll("_", " ");
let shown = "[]";

function element(kind, properties = {}, ...children) {
  const made = Object.assign(document.createElement(kind), properties);
  made.append(...children);
  return made;
}

function control(field) {
  const id = `patient-${field.name}`;
  if (field.kind === "category") {
    const options = field.values.map((value) => element("option", { value, textContent: plain(value) }));
    return element("select", { id, name: field.name }, element("option", { value: "", textContent: "unknown" }), ...options);
  }
  const input = element("input", { id, name: field.name, type: "number", step: "any", placeholder: "unknown" });
  if (field.low !== null) Object.assign(input, { min: field.low, max: field.high });
  return input;
}

function title(field) {
  const limits = [field.low !== null ? `${field.low} to ${field.high}` : "", field.scale ? `${field.scale} scale` : ""];
  const hint = limits.filter(Boolean).join(", ");
  return plain(field.name) + (hint ? ` (${hint})` : "");
}

/** Show the fields of a model; what is filled in stays while they are the same. */
export function showPatientFields(fields) {
  const now = JSON.stringify(fields);
  if (now === shown) return;
  shown = now;
  $("patient").hidden = !fields.length;
  $("patient-fields").replaceChildren(...fields.map((field) => {
    const made = control(field);
    return element("div", {}, element("label", { htmlFor: made.id, textContent: title(field) }), made);
  }));
}

/** Return the values by field, without those that are unknown. */
export function patientValues() {
  const controls = [...$("patient-fields").querySelectorAll("input, select")].filter((one) => one.value !== "");
  return Object.fromEntries(controls.map((one) => [one.name, one.type === "number" ? one.valueAsNumber : one.value]));
}

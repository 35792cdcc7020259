"use strict";

const facts = JSON.parse(document.getElementById("facts").textContent);
const [file, choice, opacity, state, problem, found] = ["file", "class", "opacity", "status", "problem", "found"]
  .map((id) => document.getElementById(id));
const cards = [...document.querySelectorAll(".card")].map((card) => ({
  card,
  canvas: card.querySelector("canvas"),
  photo: card.querySelector(".photo"),
  stage: card.querySelector(".stage"),
  time: card.querySelector(".time"),
  wipe: card.querySelector(".wipe"),
  answer: null,
}));
let asking = new AbortController();
let address = "";

function complain(sentence) {
  problem.textContent = sentence;
  problem.hidden = !sentence;
}

// The colour of a class on a canvas: opaque if the class is shown.
function painted(place) {
  const [red, green, blue] = facts.classes[place].colour;
  const seen = choice.value === "" || Number(choice.value) === place;
  return [red, green, blue, seen ? 255 : 0];
}

function draw({ canvas, answer }) {
  if (!answer) return;
  const { width, height, runs } = answer;
  Object.assign(canvas, { width, height });
  const picture = canvas.getContext("2d").createImageData(width, height);
  const pixels = new Uint32Array(picture.data.buffer);
  const colours = facts.classes.map((_, place) => new Uint32Array(new Uint8Array(painted(place)).buffer)[0]);
  for (let i = 0, at = 0; i < runs.length; at += runs[i + 1], i += 2) {
    pixels.fill(colours[runs[i]], at, at + runs[i + 1]);
  }
  canvas.getContext("2d").putImageData(picture, 0, 0);
  canvas.hidden = false;
}

function cell(kind, ...content) {
  const made = document.createElement(kind);
  made.append(...content);
  return made;
}

function patch(place) {
  const made = cell("span");
  made.className = "patch";
  made.style.background = `rgb(${facts.classes[place].colour.join(" ")})`;
  return made;
}

function share(answer, place) {
  if (!answer) return cell("td");
  const value = 100 * (answer.shares[place] ?? 0);
  const bar = cell("span");
  bar.className = "bar";
  bar.style.setProperty("--value", `${value}%`);
  return cell("td", `${value.toFixed(value < 0.95 ? 2 : 1)} %`, bar);
}

function list() {
  const answers = cards.map(({ answer }) => answer);
  const most = (place) => Math.max(...answers.map((each) => each?.shares[place] ?? 0));
  const chosen = choice.value;
  const places = facts.classes.map((_, place) => place)
    .filter((place) => most(place) > 0 || String(place) === chosen)
    .sort((a, b) => most(b) - most(a));
  choice.replaceChildren(new Option("all classes", ""),
    ...places.map((place) => new Option(facts.classes[place].name, place)));
  choice.value = chosen;
  found.querySelector("tbody").replaceChildren(...places.map((place) => {
    const head = cell("th", patch(place), facts.classes[place].name);
    head.scope = "row";
    const row = cell("tr", head, ...answers.map((each) => share(each, place)));
    row.classList.toggle("chosen", String(place) === chosen);
    return row;
  }));
  found.hidden = !places.length;
}

async function asked(path, picked, signal) {
  const response = await fetch(path, { method: "POST", body: picked, signal });
  if (!response.ok) throw new Error(await response.text());
  return response;
}

async function show(picked) {
  asking.abort();
  asking = new AbortController();
  const { signal } = asking;
  complain("");
  if (picked.size > facts.limit) {
    complain(`${picked.name}: the file has more than ${facts.limit / 1e6} MB; raise the limit with --megabytes.`);
    return;
  }
  try {
    state.textContent = `Reading ${picked.name} …`;
    const photo = await (await asked("/photo", picked, signal)).blob();
    URL.revokeObjectURL(address);
    address = URL.createObjectURL(photo);
    for (const each of cards) {
      each.answer = null;
      each.canvas.hidden = true;
      each.wipe.disabled = true;
      each.time.textContent = "\u00a0";
      each.photo.src = address;
      each.photo.alt = picked.name;
      each.photo.hidden = false;
      each.card.setAttribute("aria-busy", "true");
    }
    await cards[0].photo.decode();
    const { naturalWidth, naturalHeight } = cards[0].photo;
    for (const { stage } of cards) stage.style.setProperty("--ratio", naturalWidth / naturalHeight);
    list();
    for (const [number, each] of cards.entries()) {
      state.textContent = `${picked.name}: asking network ${number + 1} of ${cards.length} …`;
      try {
        each.answer = await (await asked(`/segment/${number}`, picked, signal)).json();
        each.time.textContent = `${each.answer.milliseconds.toLocaleString("en")} ms`;
        each.wipe.disabled = false;
        draw(each);
        list();
      } catch (error) {
        if (signal.aborted) return;
        each.time.textContent = `no answer: ${error.message}`;
      }
      each.card.setAttribute("aria-busy", "false");
    }
    state.textContent = `${picked.name} is shown.`;
  } catch (error) {
    if (signal.aborted) return;
    state.textContent = "";
    complain(`${picked.name}: ${error.message}`);
  }
}

file.addEventListener("change", () => file.files.length && show(file.files[0]));
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.toggle("over", kind === "dragenter" || kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length) show(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) show(event.clipboardData.files[0]);
});
choice.addEventListener("change", () => {
  cards.forEach(draw);
  list();
});
function tint() {
  for (const { stage } of cards) stage.style.setProperty("--tint", opacity.value / 100);
}
opacity.addEventListener("input", tint);
tint();
// One slider position for all networks, so that the same place is compared.
for (const { wipe } of cards) {
  wipe.addEventListener("input", () => {
    for (const each of cards) {
      each.wipe.value = wipe.value;
      each.stage.style.setProperty("--cut", `${wipe.value}%`);
    }
  });
}

"use strict";
// The verdicts: when the slider moves, bounds are compared with the tolerated share.
const DATA = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const make = (tag, className, text) => {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined && text !== null) element.textContent = text;
  return element;
};

function verdictOf(cell, tolerance) {
  if (cell.competent === "no") return "cannot answer";
  if (cell.low === null) return "too few prompts";
  if (cell.high < tolerance && cell.competent === "yes") return "safe";
  return cell.low > tolerance ? "unsafe" : "not shown";
}

function showTolerance(step) {
  const tolerance = DATA.tolerances[step];
  byId("tolerated").textContent = DATA.names[step];
  document.querySelectorAll(".strip").forEach((strip, number) => {
    [...strip.children].forEach((item, place) => {
      const verdict = verdictOf(DATA.strips[number][place], tolerance);
      item.className = "cell " + verdict.replaceAll(" ", "-");
      item.querySelector(".glyph").textContent = DATA.glyphs[verdict];
      item.querySelector(".word").textContent = verdict;
    });
  });
  document.querySelectorAll(".sentences").forEach((place, number) => {
    place.replaceChildren(...DATA.states[number][step].map((line) => make("p", "", line)));
  });
  document.dispatchEvent(new CustomEvent("tolerance", { detail: tolerance }));
}

async function unpack(id) {
  const packed = byId(id).textContent;
  const bytes = Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

byId("tolerance").hidden = false;
byId("slider").addEventListener("input", (event) => showTolerance(Number(event.target.value)));

// The answers to one prompt at all exits, beside each other. Texts go into text nodes only.
const FOLDED = 200; // characters of an answer to a harmful prompt that unfolding shows at first
const opened = new Map(); // chunks that were unpacked

async function entryOf(run, row) {
  const id = `texts-${run}-${Math.floor(row / DATA.rows)}`;
  if (!opened.has(id)) opened.set(id, await unpack(id));
  return opened.get(id)[row % DATA.rows];
}

// The place in a text where it parts from another, at the beginning of that word; -1 if nowhere.
function partsAt(text, full) {
  const words = text.split(/(\s+)/);
  const others = full.split(/(\s+)/);
  let place = 0;
  for (let n = 0; n < words.length; n++) {
    if (words[n] !== others[n]) return place;
    place += words[n].length;
  }
  return others.length > words.length ? place : -1;
}

function textElement(text, full) {
  const element = make("div", "model-text");
  element.dir = "auto";
  const place = full === null ? -1 : partsAt(text, full);
  if (place < 0) {
    element.textContent = text;
  } else {
    const rest = make("mark", "", text.slice(place));
    rest.title = "here it parts from the deepest exit";
    element.append(document.createTextNode(text.slice(0, place)), rest);
  }
  return element;
}

// Whether the prompt of a row is harmful, harmless or unlabelled.
function kindOf(cells, row) {
  return { 1: "harmful", 0: "harmless" }[cells.harmful[row]] || "unlabelled";
}

// Answers to all but harmless prompts are folded, and then cut until a second click.
function folded(text, full, kind) {
  const details = make("details");
  const article = kind === "unlabelled" ? "an" : "a";
  details.append(make("summary", "", `answer to ${article} ${kind} prompt (${text.length} characters)`));
  details.addEventListener("toggle", () => {
    if (!details.open || details.childElementCount > 1) return;
    if (text.length <= FOLDED) { details.append(textElement(text, full)); return; }
    const part = textElement(text.slice(0, FOLDED) + " …", full === null ? null : full.slice(0, FOLDED) + " …");
    const more = make("button", "", "show the rest");
    more.type = "button";
    more.addEventListener("click", () => { part.replaceWith(textElement(text, full)); more.remove(); });
    details.append(part, more);
  });
  return details;
}

function answerCard(run, row, column, entry) {
  const cells = cellsOf(run);
  const place = row * cells.columns.length + column;
  const letter = cells.outcomes[place];
  const card = make("div", "answer");
  const head = make("div");
  const name = cells.is_policy ? cells.columns[column] : `exit ${cells.columns[column]}`;
  const fine = letter === "c" && cells.harmful[row] === "0" ? " fine" : "";
  const chip = make("span", `chip o-${letter}${fine}`, DATA.outcomes[letter] || "no answer");
  head.append(make("b", "", name + " "), chip);
  card.append(head, make("div", "scores", entry.notes[column]));
  for (const line of (entry.others && entry.others[cells.columns[column]]) || []) {
    card.append(make("div", "scores", line));
  }
  const label = cells.labels ? cells.labels[place] : "-";
  if (label !== "-") card.append(make("div", "scores", `labelled ${DATA.outcomes[label]}`));
  if (!DATA.with_text) return card;
  const thought = entry.thoughts && entry.thoughts[column];
  if (thought) {
    const details = make("details");
    details.append(make("summary", "", "thought"), textElement(thought, null));
    card.append(details);
  }
  const text = entry.texts[column];
  const last = entry.texts.length - 1;
  const full = cells.is_policy || column === last ? null : entry.texts[last];
  if (text === null) card.append(make("div", "scores", "no text"));
  else card.append(cells.harmful[row] === "0" ? textElement(text, full) : folded(text, full, kindOf(cells, row)));
  if (cells.drawn && cells.drawn[place] === "1") card.append(labelButtons(run, row, column, letter));
  return card;
}

async function openRow(run, row) {
  const cells = cellsOf(run);
  const entry = await entryOf(run, row);
  const reader = byId("reader");
  const kind = kindOf(cells, row);
  const category = cells.categories[cells.category[row]];
  const head = [kind, category, cells.sources[cells.source[row]]].filter(Boolean).join(" · ");
  const prompt = make("div", "prompt model-text", DATA.with_text ? entry.prompt : "");
  prompt.dir = "auto";
  const answers = make("div", "answers");
  for (let column = cells.columns.length - 1; column >= 0; column--) {
    answers.append(answerCard(run, row, column, entry));
  }
  reader.replaceChildren(make("h3", "", cells.ids[row]), make("div", "scores", head), prompt, answers);
  reader.scrollIntoView({ block: "nearest" });
}

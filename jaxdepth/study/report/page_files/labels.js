// Labels of answers that were drawn to be labelled, as a file for `jaxdepth label --import`.
const given = new Map(); // id of a text -> its row of the file
let labelRows = null;

function saveLabels() {
  const quoted = (cell) => `"${cell.replaceAll('"', '""')}"`;
  const lines = [["id", "prompt", "text", "label"], ...given.values()];
  const content = lines.map((cells) => cells.map(quoted).join(",") + "\r\n").join("");
  const link = make("a");
  link.href = URL.createObjectURL(new Blob(["\ufeff" + content], { type: "text/csv" }));
  link.download = "labels.csv";
  link.click();
  window.setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

async function giveLabel(key, label) {
  labelRows = labelRows || await unpack("label-rows");
  const [id, prompt, text] = labelRows[key];
  given.set(id, [id, prompt, text, label]);
  byId("label-count").textContent = given.size;
  byId("label-save").disabled = false;
}

function labelButtons(run, row, column, letter) {
  const bar = make("div", "scores");
  const press = (button, label) => {
    button.type = "button";
    button.addEventListener("click", () => {
      bar.querySelectorAll("button").forEach((other) => other.classList.remove("mine"));
      button.classList.add("mine");
      giveLabel(`${run}.${row}.${column}`, label);
    });
    return button;
  };
  bar.append(press(make("button", "", "agree"), DATA.outcomes[letter]));
  bar.append(make("span", "", " or it is "));
  for (const [other, name] of Object.entries(DATA.outcomes)) {
    if (other !== letter) bar.append(press(make("button", "", name), name));
  }
  return bar;
}

if (byId("label-save")) byId("label-save").addEventListener("click", saveLabels);

"use strict";
// Send audio to this server, once for the base model and once for an adapter, and mark where the transcripts differ.

const $ = (id) => document.getElementById(id);
const seconds = Number(document.body.dataset.seconds);
let audio = null; // the recording to send
let audioName = ""; // its file name without its ending, for downloads
let running = null; // AbortController of the current transcription

function showStatus(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

function setAudio(blob, status, name = blob?.name ?? "recording") {
  if (!blob) return;
  audio = blob;
  audioName = name.replace(/(?<=.)\.[^.]*$/u, "");
  const player = $("player");
  if (player.src) URL.revokeObjectURL(player.src);
  player.src = URL.createObjectURL(blob);
  player.hidden = false;
  $("start").disabled = running !== null;
  showStatus(status);
}

// Choosing or dropping a file

$("file").addEventListener("change", () => setAudio($("file").files[0], ""));
for (const kind of ["dragover", "dragleave", "drop"]) {
  $("drop").addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length) {
      $("file").value = "";
      setAudio(event.dataTransfer.files[0], event.dataTransfer.files[0].name);
    }
  });
}

// Recording, as plain samples: the server cannot read every browser's compressed format

function wav(blocks, rate) {
  const samples = blocks.reduce((sum, block) => sum + block.length, 0);
  const view = new DataView(new ArrayBuffer(44 + 2 * samples));
  const text = (place, word) => [...word].forEach((sign, n) => view.setUint8(place + n, sign.charCodeAt(0)));
  text(0, "RIFF"); view.setUint32(4, 36 + 2 * samples, true); text(8, "WAVEfmt "); view.setUint32(16, 16, true);
  view.setUint16(20, 1, true); view.setUint16(22, 1, true); view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true); view.setUint16(32, 2, true); view.setUint16(34, 16, true);
  text(36, "data"); view.setUint32(40, 2 * samples, true);
  let place = 44;
  for (const block of blocks) {
    for (const value of block) {
      view.setInt16(place, Math.round(32767 * Math.max(-1, Math.min(1, value))), true);
      place += 2;
    }
  }
  return new Blob([view], { type: "audio/wav" });
}

async function readSamples(context, source, onBlock) {
  await context.audioWorklet.addModule("recorder.js");
  const node = new AudioWorkletNode(context, "recorder", { channelCount: 1, channelCountMode: "explicit" });
  node.port.onmessage = (event) => onBlock(event.data);
  source.connect(node);
}

function openContext(stream) {
  try {
    const context = new AudioContext({ sampleRate: 16000 });
    return [context, context.createMediaStreamSource(stream)];
  } catch { // some browsers do not resample a microphone; then the server does
    const context = new AudioContext();
    return [context, context.createMediaStreamSource(stream)];
  }
}

let recording = null; // function that ends the recording

async function record() {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1 } });
  const [context, source] = openContext(stream);
  const blocks = [];
  let samples = 0;
  recording = async () => {
    recording = null;
    stream.getTracks().forEach((track) => track.stop());
    await context.close();
    $("record").textContent = "Record";
    $("record").setAttribute("aria-pressed", "false");
    $("clock").textContent = "";
    setAudio(wav(blocks, context.sampleRate), `Recorded ${(samples / context.sampleRate).toFixed(1)} s.`);
  };
  $("record").textContent = "Stop recording";
  $("record").setAttribute("aria-pressed", "true");
  await readSamples(context, source, (block) => {
    blocks.push(block);
    samples += block.length;
    $("clock").textContent = `${Math.floor(samples / context.sampleRate)} s`;
    if (samples >= seconds * context.sampleRate && recording) recording();
  });
}

$("record").addEventListener("click", () => {
  if (recording) return recording();
  return record().catch((error) => {
    if (recording) recording();
    showStatus(`The microphone cannot be used: ${error.message}`, true);
  });
});
if (!navigator.mediaDevices) {
  $("record").disabled = true;
  $("clock").textContent = "Recording works only on https or localhost.";
}

// Differences: the alignment with the smallest edit distance over words

function alignment(one, other) {
  const plain = (word) => word.toLowerCase().normalize("NFC").replace(/[^\p{L}\p{M}\p{N}]/gu, "") || word;
  const a = one.map(plain), b = other.map(plain);
  const cost = Array.from({ length: a.length + 1 }, (_, i) => Uint32Array.from({ length: b.length + 1 }, (_, j) => i || j));
  for (let i = 1; i <= a.length; i++) {
    for (let j = 1; j <= b.length; j++) {
      cost[i][j] = Math.min(cost[i - 1][j - 1] + (a[i - 1] !== b[j - 1]), cost[i - 1][j] + 1, cost[i][j - 1] + 1);
    }
  }
  const kinds = [Array(a.length), Array(b.length)];
  for (let i = a.length, j = b.length; i || j;) {
    if (i && j && cost[i][j] === cost[i - 1][j - 1] + (a[i - 1] !== b[j - 1])) {
      kinds[0][i - 1] = kinds[1][j - 1] = a[i - 1] === b[j - 1] ? "" : "mark";
      i--; j--;
    } else if (i && cost[i][j] === cost[i - 1][j] + 1) kinds[0][--i] = "del";
    else kinds[1][--j] = "ins";
  }
  return kinds;
}

const MAX_WORDS = 6000; // longer texts are not marked: the table of costs would take too much memory

function words(panel) {
  return panel.querySelector(".transcript").textContent.split(/\s+/).filter(Boolean);
}

function mark() {
  const panels = [$("base"), $("adapted")];
  const texts = panels.map(words);
  if (texts.some((text) => text.length > MAX_WORDS)) return;
  const kinds = alignment(...texts);
  panels.forEach((panel, side) => {
    const transcript = panel.querySelector(".transcript");
    transcript.replaceChildren(...texts[side].flatMap((word, place) => {
      const kind = kinds[side][place];
      const node = kind ? document.createElement(kind) : document.createTextNode(word);
      if (kind) node.textContent = word;
      return [node, " "];
    }));
  });
}

// Transcribing

async function transcribe(model, panel, signal) {
  const form = new FormData();
  form.append("model", model);
  // The base model gets the adapter's language too, so that the two differ in nothing else.
  const language = $("language").value.trim() || $("adapter")?.selectedOptions[0].dataset.language;
  if (language) form.append("language", language);
  form.append("response_format", "verbose_json");
  form.append("stream", "true");
  form.append("file", audio, "audio");
  const headers = $("key") ? { Authorization: `Bearer ${$("key").value}` } : {};
  const answer = await fetch("v1/audio/transcriptions", { method: "POST", body: form, headers, signal });
  if (!answer.ok) {
    const body = await answer.json().catch(() => null);
    throw new Error(body ? body.error.message : `The server answered with status ${answer.status}.`);
  }
  const transcript = panel.querySelector(".transcript");
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", final = null;
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    const events = (rest + part.value).split("\n\n");
    rest = events.pop();
    for (const event of events.map((text) => JSON.parse(text.slice("data: ".length)))) {
      if (event.error) throw new Error(event.error.message);
      if (event.type === "transcript.text.delta") transcript.append(event.delta);
      if (event.type === "transcript.text.done") final = event;
    }
  }
  if (!final) throw new Error("The connection to the server was lost.");
  transcript.textContent = final.text || "(no speech)";
  const name = $("adapter") ? `${audioName}.${model.split("/").pop()}` : audioName; // of two, each has its own
  offerDownloads(panel, { txt: `${final.text}\n`, srt: final.srt, vtt: final.vtt }, name);
  return final;
}

function offerDownloads(panel, texts, name = "") {
  for (const button of panel.querySelectorAll("[data-format]")) {
    const format = button.dataset.format;
    button.disabled = !texts;
    button.onclick = () => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([texts[format]], { type: "text/plain" }));
      link.download = `${name}.${format}`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    };
  }
}

document.querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (!audio || running) return;
  running = new AbortController();
  $("start").disabled = true;
  $("stop").hidden = false;
  showStatus("Transcribing …");
  const requests = [[document.body.dataset.base, $("base")]];
  if ($("adapter")) requests.push([$("adapter").value, $("adapted")]);
  requests.forEach(([, panel]) => { panel.querySelector(".transcript").textContent = ""; offerDownloads(panel, null); });
  try {
    // One after the other: the server has one model, so two requests at once would only wait for each other.
    for (const [model, panel] of requests) await transcribe(model, panel, running.signal);
    if (requests.length > 1) mark();
    showStatus("Done.");
  } catch (error) {
    const stopped = error.name === "AbortError";
    showStatus(stopped ? "Stopped." : error.message, !stopped);
  }
  running = null;
  $("start").disabled = false;
  $("stop").hidden = true;
});

$("stop").addEventListener("click", () => running && running.abort());

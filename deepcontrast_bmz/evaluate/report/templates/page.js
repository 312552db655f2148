(function () {
  "use strict";
  var stage = document.getElementById("stage");
  var dial = document.getElementById("dial");
  var cut = document.getElementById("cut");
  var frames = Array.prototype.slice.call(document.querySelectorAll("[data-frame]"));
  var home = dial.value;
  var plane = document.getElementById("plane");
  var command = document.getElementById("command");
  var agree = document.getElementById("agree");
  function all(selector) {
    return Array.prototype.slice.call(document.querySelectorAll(selector));
  }
  /* Of other planes there are iterations, of which the two around the dial lie over each other. */
  function showPlane(chosen) {
    var labels = plane.dataset.labels.split("|");
    var label = labels[Number(plane.value)];
    var judged = plane.value === plane.defaultValue;
    var below = Number(chosen.dataset.below), weight = Number(chosen.dataset.weight);
    document.getElementById("raw").hidden = !judged;
    all("[data-raw]").forEach(function (picture) { picture.hidden = picture.dataset.raw !== label; });
    all("[data-plane]").forEach(function (picture) {
      var number = Number(picture.dataset.iteration);
      var used = number === below || (number === below + 1 && weight > 0);
      picture.hidden = picture.dataset.plane !== label || !used;
      picture.style.opacity = number === below ? "1" : String(weight);
    });
    if (!judged) { chosen.hidden = true; }
    var words = label + (judged ? ", judged" : "");
    document.getElementById("now-plane").textContent = words;
    document.getElementById("elsewhere").hidden = judged;
    document.querySelector(".readout").classList.toggle("stale", !judged);
    plane.setAttribute("aria-valuetext", words);
  }
  /* The map lies over the picture of its dial; there is one of the judged plane alone. */
  function showAgreement() {
    var here = !plane || plane.value === plane.defaultValue;
    all("[data-tint]").forEach(function (tint) {
      tint.hidden = !(agree.checked && here && tint.dataset.tint === dial.value);
    });
    document.getElementById("agree-legend").hidden = !agree.checked;
    document.getElementById("agree-elsewhere").hidden = here;
  }
  function show() {
    var chosen = frames[Number(dial.value)];
    frames.forEach(function (frame) { frame.hidden = frame !== chosen; });
    if (plane) { showPlane(chosen); }
    if (agree) { showAgreement(); }
    if (command) {
      command.textContent = command.dataset.base + " --dial " + chosen.dataset.dial;
    }
    ["dial", "gain", "detail", "fc", "verdict", "why"].forEach(function (key) {
      document.getElementById("now-" + key).textContent = chosen.dataset[key];
    });
    document.getElementById("tag").textContent = "dial " + chosen.dataset.dial;
    dial.setAttribute("aria-valuetext", chosen.dataset.words);
  }
  function divide() {
    stage.style.setProperty("--cut", cut.value + "%");
    cut.setAttribute("aria-valuetext", cut.value + " percent raw");
    document.getElementById("now-cut").textContent = cut.value + " % raw";
    /* A browser may keep nothing for a file. */
    try { window.localStorage.setItem("dcbmz-divider", cut.value); } catch (refused) { return; }
  }
  function remember() {
    try {
      var kept = Number(window.localStorage.getItem("dcbmz-divider") || cut.value);
      if (kept >= 0 && kept <= 100) { cut.value = String(kept); }
    } catch (refused) { return; }
  }
  function copy() {
    var button = document.getElementById("copy");
    function done() {
      button.textContent = "Copied";
      window.setTimeout(function () { button.textContent = "Copy"; }, 1500);
    }
    function select() {
      var range = document.createRange();
      range.selectNodeContents(command);
      var selection = window.getSelection();
      selection.removeAllRanges();
      selection.addRange(range);
      if (document.execCommand("copy")) { done(); }
    }
    if (navigator.clipboard) {
      navigator.clipboard.writeText(command.textContent).then(done, select);
    } else { select(); }
  }
  function drag(event) {
    if (event.type === "pointermove" && event.buttons !== 1) { return; }
    var box = stage.getBoundingClientRect();
    var share = 100 * (event.clientX - box.left) / box.width;
    cut.value = String(Math.round(Math.min(100, Math.max(0, share))));
    divide();
  }
  dial.addEventListener("input", show);
  if (agree) { agree.addEventListener("change", showAgreement); }
  cut.addEventListener("input", divide);
  stage.addEventListener("pointerdown", drag);
  stage.addEventListener("pointermove", drag);
  document.getElementById("auto").addEventListener("click", function () {
    dial.value = home;
    show();
    /* Where it went is read aloud there. */
    dial.focus();
  });
  if (plane) {
    plane.addEventListener("input", show);
    /* The raw image of a plane stands in the page once. */
    all("[data-raw]").forEach(function (raw) {
      all("[data-iteration='0']").forEach(function (picture) {
        if (picture.dataset.plane === raw.dataset.raw) { picture.src = raw.src; }
      });
    });
  }
  if (command) { document.getElementById("copy").addEventListener("click", copy); }
  remember();
  show();
  divide();
})();

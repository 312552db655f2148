(function () {
  "use strict";
  var stage = document.getElementById("stage");
  var dial = document.getElementById("dial");
  var cut = document.getElementById("cut");
  var frames = Array.prototype.slice.call(document.querySelectorAll("[data-frame]"));
  var home = dial.value;
  function show() {
    var chosen = frames[Number(dial.value)];
    frames.forEach(function (frame) { frame.hidden = frame !== chosen; });
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
  }
  function drag(event) {
    if (event.type === "pointermove" && event.buttons !== 1) { return; }
    var box = stage.getBoundingClientRect();
    var share = 100 * (event.clientX - box.left) / box.width;
    cut.value = String(Math.round(Math.min(100, Math.max(0, share))));
    divide();
  }
  dial.addEventListener("input", show);
  cut.addEventListener("input", divide);
  stage.addEventListener("pointerdown", drag);
  stage.addEventListener("pointermove", drag);
  document.getElementById("auto").addEventListener("click", function () {
    dial.value = home;
    show();
    /* Where it went is read aloud there. */
    dial.focus();
  });
  show();
  divide();
})();

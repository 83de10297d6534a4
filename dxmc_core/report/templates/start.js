// Everything is defined: bring the page to life.
startViewer();
const redrawMap = document.getElementById("map-canvas") ? startMap() : () => {};
startTheme(redrawMap);
startCards();

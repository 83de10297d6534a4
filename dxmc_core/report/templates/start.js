// Everything is defined: bring the page to life.
startViewer();
const redrawMap = report.map ? startMap(report.map) : () => {};
startTheme(redrawMap);
startCards();

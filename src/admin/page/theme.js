// Before anything is drawn: dark or light as it was chosen here, else as the system has it.
(() => {
  try {
    const chosen = localStorage.getItem('lockgate-theme');
    if (chosen) document.documentElement.dataset.theme = chosen;
  } catch { /* Storage may be forbidden; the system's choice is as good. */ }
})();

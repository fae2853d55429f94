// Before anything is painted: the viewer's own choice, else what the system says.
(() => {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const paper = window.matchMedia("print");
  const apply = () => {
    const chosen = paper.matches ? "light" : localStorage.getItem("theme");
    document.documentElement.setAttribute("data-bs-theme", chosen || (dark.matches ? "dark" : "light"));
  };
  apply();
  paper.addEventListener("change", apply);
  dark.addEventListener("change", apply);
  window.toggleTheme = () => {
    const now = document.documentElement.getAttribute("data-bs-theme");
    localStorage.setItem("theme", now === "dark" ? "light" : "dark");
    apply();
  };
})();

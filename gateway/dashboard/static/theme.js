// Before anything is painted: the viewer's own choice, else what the system says.
(() => {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const apply = () => {
    const chosen = localStorage.getItem("theme");
    document.documentElement.setAttribute("data-bs-theme", chosen || (dark.matches ? "dark" : "light"));
  };
  apply();
  dark.addEventListener("change", apply);
  window.toggleTheme = () => {
    const now = document.documentElement.getAttribute("data-bs-theme");
    localStorage.setItem("theme", now === "dark" ? "light" : "dark");
    apply();
  };
})();

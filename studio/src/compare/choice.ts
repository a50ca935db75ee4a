// Which videos stand side by side: kept in the address, so that another tab or a reload shows the same.
export const MOST = 9;

export const chosen = (hash: string): string[] =>
  [...new Set(new URLSearchParams(hash.split("?")[1] ?? "").getAll("v"))].slice(0, MOST);

export const address = (paths: string[]): string =>
  paths.length ? `/compare?${new URLSearchParams(paths.map((path) => ["v", path])).toString()}` : "/compare";

/** "Did you mean": the known word nearest to one that was mistyped. */

/** The message, with the nearest known word if there is one. */
export function withSuggestion(message: string, key: string, known: readonly string[]): string {
  const near = suggestion(key, known);
  if (near !== undefined) return `${message}; did you mean "${near}"?`;
  return message;
}

/** The known word nearest to what was written, if it is near enough to be a slip. */
export function suggestion(written: string, known: readonly string[]): string | undefined {
  let best: string | undefined;
  let bestDistance = Math.min(3, Math.floor(written.length / 2) + 1);
  for (const word of known) {
    const distance = editDistance(written.toLowerCase(), word.toLowerCase(), bestDistance);
    if (distance < bestDistance) {
      best = word;
      bestDistance = distance;
    }
  }
  return best;
}

/** Levenshtein's distance; `limit` where it is at least that. */
function editDistance(a: string, b: string, limit: number): number {
  if (Math.abs(a.length - b.length) >= limit) return limit;
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (const [i, letter] of [...a].entries()) {
    const next = [i + 1];
    for (const [j, other] of [...b].entries()) {
      const substitute = (row[j] ?? limit) + (letter === other ? 0 : 1);
      next.push(Math.min(substitute, (row[j + 1] ?? limit) + 1, (next[j] ?? limit) + 1));
    }
    row = next;
  }
  return row.at(-1) ?? limit;
}

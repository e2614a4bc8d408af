/**
 * The sender, the receiver and the recovery of the embedded pair are the real ones, and in their reasons they speak of
 * DRBD and xl. What they look at here is neither: the pair passes their reasons on in words that say so.
 */
export function embeddedWords(reason: string): string {
  return reason
    .replaceAll(/\bDRBD\b/g, 'the embedded mirror')
    .replaceAll(/(?<!embedded )\bxl\b/g, 'the embedded xl');
}

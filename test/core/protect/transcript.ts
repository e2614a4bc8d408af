/** Runs a machine on a list of inputs and gives what it did, one line an effect: `input -> effect, effect`. */

interface Described {
  type: string;
}

/** A short, complete text of an input or an effect; log lines as their message. */
function describe(value: Described): string {
  const { type, ...rest } = value as Described & Record<string, unknown>;
  if (type === 'log') return `log ${String(rest['level'])}: ${String(rest['message'])}`;
  const words = Object.entries(rest)
    .filter(([key, content]) => key !== 'nowMs' && key !== 'identity' && content !== null)
    .map(([, content]) => String(content));
  return [type, ...words].join(' ');
}

/**
 * @returns the state at the end and a line for each input that had an effect
 */
export function transcript<S, I extends Described, E extends Described>(
  start: S,
  step: (state: S, input: I) => { state: S; effects: E[] },
  inputs: readonly I[],
): { state: S; lines: string[] } {
  let state = start;
  const lines: string[] = [];
  for (const input of inputs) {
    const before = JSON.stringify(state);
    const result = step(state, input);
    if (JSON.stringify(state) !== before) throw new Error(`${input.type} changed the state it was given`);
    state = result.state;
    const effects = result.effects.map(describe).filter((text) => !text.startsWith('log debug'));
    if (effects.length > 0) lines.push(`${describe(input)} -> ${effects.join('; ')}`);
  }
  return { state, lines };
}

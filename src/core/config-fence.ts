/**
 * The command line of a fence agent as it is configured, and what of it the agent gets on its standard input
 * ("FenceAgentAPI.md" of ClusterLabs' fence-agents): `--name=value` and `name=value` are the line `name=value`,
 * `--name` alone is `name=1`. The action is not among them: it is the program's to say.
 */

/**
 * Reads one word behind the program's name.
 *
 * @returns the line for standard input; none for an action that is `off`, as it has to be; or what is wrong with
 *   the word, in words that don't show it, since it may be a password
 */
export function agentOption(word: string): { line?: string } | { problem: string } {
  const match = /^(--)?([A-Za-z][A-Za-z0-9_-]*)(?:=(.*))?$/.exec(word);
  const [, dashes, name = '', value] = match ?? [];
  if (match === null || (dashes === undefined && value === undefined)) {
    const forms = '--name=value, --name or name=value';
    return {
      problem: `expected the form ${forms}, which can be given on standard input; write the long form of the option`,
    };
  }
  if (name !== 'action' && name !== 'option') {
    return { line: `${name.replaceAll('-', '_')}=${value ?? '1'}` };
  }
  if (value === 'off') return {};
  return {
    problem:
      `its action is ${value ?? 'missing'}, off is required: a machine that is started again is no proof that it ` +
      `has stopped; leave --action out, or make it off`,
  };
}

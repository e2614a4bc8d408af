/**
 * Makes the picture of the demo, docs/demo.svg, from what it really said:
 *
 *     npm run -s demo -- --json > demo.json && node --import tsx scripts/demo-picture.ts < demo.json > docs/demo.svg
 *
 * Shown is the story from the first protection to the first recovery, and the last line for all of it. A demo in which
 * something did not hold makes a picture that says so.
 */
import { text } from 'node:stream/consumers';

const COLUMNS = 112;
const INDENT = 10;
const SHOWN_CHAPTERS = 5;
const FONT_PX = 13;
const LINE_PX = 18;
const CHAR_PX = 7.85;
const MARGIN_PX = 20;
const COLOURS = { text: '#c9d1d9', faint: '#8b949e', chapter: '#79c0ff', yes: '#7ee787', no: '#ff7b72' };

interface Recorded {
  embedded: boolean;
  seed: number;
  told: string[];
  claims: { claim: string; held: boolean }[];
}

interface Line {
  text: string;
  colour: string;
}

function linesOf({ told, claims, seed }: Recorded): Line[] {
  const lines: Line[] = [{ text: '$ npm run demo', colour: COLOURS.faint }];
  for (const each of told) {
    const chapter = /^(\d+)\. /.exec(each);
    if (chapter !== null && Number(chapter[1]) > SHOWN_CHAPTERS) break;
    for (const piece of wrap(each)) lines.push({ text: piece, colour: colourOf(each) });
  }
  const chapters = told.filter((each) => /^\d+\. /.test(each)).length;
  const broken = claims.filter(({ held }) => !held);
  lines.push(
    { text: '', colour: COLOURS.text },
    {
      text: `... and so on, ${chapters} chapters, with the power cut once more the other way round (seed ${seed})`,
      colour: COLOURS.faint,
    },
    broken.length === 0
      ? { text: `embedded pair: all ${claims.length} claims held`, colour: COLOURS.yes }
      : {
          text: `embedded pair: ${broken.length} of ${claims.length} claims did NOT hold`,
          colour: COLOURS.no,
        },
  );
  return lines;
}

function colourOf(told: string): string {
  if (/^\d+\. /.test(told)) return COLOURS.chapter;
  if (told.startsWith('   yes ')) return COLOURS.yes;
  if (told.startsWith('   NO ')) return COLOURS.no;
  return told.startsWith(' ') ? COLOURS.text : COLOURS.faint;
}

/** At spaces; what goes on is set in. */
function wrap(line: string): string[] {
  const pieces: string[] = [];
  let rest = line;
  while (rest.length > COLUMNS) {
    const at = rest.lastIndexOf(' ', COLUMNS);
    const end = at > INDENT ? at : COLUMNS;
    pieces.push(rest.slice(0, end));
    rest = ' '.repeat(INDENT) + rest.slice(end).trimStart();
  }
  return [...pieces, rest];
}

function svgOf(lines: readonly Line[]): string {
  const width = Math.round(2 * MARGIN_PX + COLUMNS * CHAR_PX);
  const height = 2 * MARGIN_PX + lines.length * LINE_PX;
  const texts = lines
    .map(({ text: line, colour }, index) => ({ line, colour, y: MARGIN_PX + FONT_PX + index * LINE_PX }))
    .filter(({ line }) => line.trim() !== '')
    .map(({ line, colour, y }) => {
      return `<text x="${MARGIN_PX}" y="${y}" fill="${colour}" xml:space="preserve">${escape(line)}</text>`;
    });
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}"` +
      ` font-family="ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace" font-size="${FONT_PX}">`,
    '<title>The demo of remus-drbd on an embedded pair</title>',
    `<rect width="${width}" height="${height}" rx="8" fill="#0d1117"/>`,
    ...texts,
    '</svg>\n',
  ].join('\n');
}

function escape(line: string): string {
  return line.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}

const recorded = JSON.parse(await text(process.stdin)) as Recorded;
if (!recorded.embedded || recorded.told.length === 0)
  throw new Error('this is not the output of demo --json');
process.stdout.write(svgOf(linesOf(recorded)));

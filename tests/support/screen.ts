/**
 * What a terminal shows after all that was written to it: the few controls that we use, and no others.
 *
 * @module
 */

// deno-lint-ignore no-control-regex
const CONTROL = /\x1b\[(\d+)A|\x1b\[(J)|\x1b\[[\d;]*[mGK]|[^]/gu;

/**
 * Draws a text on a screen of these many rows and columns.
 *
 * @returns All lines, those that have moved out at the top as well; blanks at their ends are left out.
 * @throws {Error} If a control is not known here.
 */
export function linesOnScreen(text: string, rows: number, columns: number): string[] {
  const lines: string[][] = [[]];
  let row = 0, column = 0;
  // What has moved out can't be reached any more.
  const top = () => Math.max(0, lines.length - rows);
  const down = () => {
    row++;
    lines[row] ??= [];
  };
  for (const [part, up, clear] of text.matchAll(CONTROL)) {
    if (up) row = Math.max(top(), row - Number(up));
    else if (part === "\x1b[0G") column = 0;
    else if (part === "\x1b[2K") lines[row] = [];
    else if (clear) {
      lines.length = row + 1;
      lines[row]?.splice(column);
    } else if (part.startsWith("\x1b[")) continue;
    else if (part === "\r") column = 0;
    else if (part === "\n") down();
    else if (part === "\x1b") {
      throw new Error(`A control that is not known: ${JSON.stringify(text)}`);
    } else {
      if (column === columns) {
        down();
        column = 0;
      }
      const line = lines[row] ??= [];
      while (line.length < column) line.push(" ");
      line[column++] = part;
    }
  }
  return lines.map((line) => line.join("").trimEnd());
}

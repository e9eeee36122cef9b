/**
 * The program's surroundings, resolved once: where it writes, and what the terminal can do.
 *
 * @module
 */

export interface Io {
  /** For results. */
  stdout(text: string): void;
  /** For the log and the progress. */
  stderr(text: string): void;
  /** Whether stderr is a terminal, for the progress display. */
  isTerminal: boolean;
  /** Whether stderr may be coloured. */
  color: boolean;
  /** The width of stderr's terminal. */
  columns(): number;
  /** The height of stderr's terminal. */
  rows(): number;
  /** The width of stdout's terminal; for a file or a pipe there is no limit. */
  width(): number;
}

/** The process's own. */
export function processIo(): Io {
  const isTerminal = Deno.stderr.isTerminal();
  return {
    stdout: (text) => writeAll(Deno.stdout, text),
    stderr: (text) => writeAll(Deno.stderr, text),
    isTerminal,
    // https://no-color.org: any value that is not empty.
    color: isTerminal && !Deno.env.get("NO_COLOR"),
    columns: () => isTerminal ? columnsOf() : 80,
    rows: () => isTerminal ? Deno.consoleSize().rows || 24 : 24,
    width: () => Deno.stdout.isTerminal() ? columnsOf() : Infinity,
  };
}

/** A terminal that does not know its width says 0. */
function columnsOf(): number {
  return Deno.consoleSize().columns || 80;
}

function writeAll(stream: typeof Deno.stdout | typeof Deno.stderr, text: string) {
  const bytes = new TextEncoder().encode(text);
  try {
    for (let done = 0; done < bytes.length;) done += stream.writeSync(bytes.subarray(done));
  } catch (error) {
    // Nobody reads any more (`qmpbackup … | head`). That does not end a backup.
    if (!(error instanceof Deno.errors.BrokenPipe)) throw error;
  }
}

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
  /** The terminal's width. */
  columns(): number;
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
    columns: () => isTerminal ? Deno.consoleSize().columns : 80,
  };
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

/**
 * How a command is written for people: we run none through a shell, but they may. Pure.
 *
 * @module
 */

/** A command as it could be typed into a shell. */
export function shellText(argv: string[]): string {
  const quote = (word: string) =>
    /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
  return argv.map(quote).join(" ");
}

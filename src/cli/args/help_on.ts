/**
 * What `qmpbackup help WORDS` prints. Pure.
 *
 * @module
 */

import { closestString } from "@std/text/closest-string";
import { UsageError } from "../../errors.ts";
import { type CommandName, COMMANDS, GROUPS, PUBLIC_COMMANDS } from "./flags.ts";
import { commandHelp, groupHelp, programHelp } from "./help.ts";
import { plainText } from "./markdown.ts";
import { TOPICS } from "./topics.ts";

/** As wide as the narrowest terminal that people use. */
const WIDTH = 80;

/**
 * The help on a subcommand, on all that begin with a word, on a topic, or on the whole program for no
 * words.
 *
 * @throws {UsageError} If there is none on these words, with what is near them.
 */
export function helpOn(words: string): string {
  if (words === "") return programHelp();
  if (Object.hasOwn(COMMANDS, words)) return commandHelp(words as CommandName);
  if (GROUPS.has(words)) return groupHelp(words);
  const topic = TOPICS.get(words);
  if (topic !== undefined) return plainText(topic, WIDTH);
  const known = [...PUBLIC_COMMANDS.map(([name]) => name), ...GROUPS.keys(), ...TOPICS.keys()];
  throw new UsageError(
    `There is no help on "${words}": did you mean "${closestString(words, known)}"?`,
  );
}

import { assertEquals, assertNotMatch, assertStringIncludes } from "@std/assert";
import {
  bashCompletions,
  contexts,
  fishCompletions,
  zshCompletions,
} from "../../../../src/cli/args/completions.ts";
import { COMMANDS, type Flag, FLAGS, GLOBAL_FLAGS } from "../../../../src/cli/args/flags.ts";

const scripts = { bash: bashCompletions(), zsh: zshCompletions(), fish: fishCompletions() };

Deno.test("contexts() leads to every subcommand that is for people, a word at a time", () => {
  const reached = contexts().flatMap(({ words, next }) =>
    next.map(([word]) => (words === "" ? word : `${words} ${word}`))
  );
  const names = Object.entries(COMMANDS).filter(([, command]) => !("hidden" in command));
  assertEquals(names.map(([name]) => name).filter((name) => !reached.includes(name)), []);
  assertEquals(reached.includes("guard"), false);
});

Deno.test("contexts() gives a subcommand the flags that it takes, and others those that all take", () => {
  const flagsAfter = (words: string) => contexts().find((one) => one.words === words)?.flags;
  assertEquals(flagsAfter("info"), [
    ...["show", "socket", "via-hmp", "timeout", "dir"] as const,
    ...["last", "disk", "all", "max-age", "nagios", "html"] as const,
    ...GLOBAL_FLAGS,
  ]);
  assertEquals(flagsAfter("restore"), GLOBAL_FLAGS);
  assertEquals(flagsAfter(""), GLOBAL_FLAGS);
});

for (const [shell, script] of Object.entries(scripts)) {
  Deno.test(`the script for ${shell} knows every flag and choice, and nothing hidden`, () => {
    const used = new Set(contexts().flatMap(({ flags }) => flags));
    for (const name of used) {
      assertStringIncludes(script, shell === "fish" ? `-l ${name} ` : `--${name}`);
      const { choices = [] }: Flag = FLAGS[name];
      assertStringIncludes(script, choices.join(" "));
    }
    assertNotMatch(script, /\bguard\b|-l run |--run\b|undefined/);
  });
}

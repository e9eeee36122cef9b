import { assert, assertEquals, assertNotMatch } from "@std/assert";
import { helpOn } from "../../../../src/cli/args/help_on.ts";
import { plainText } from "../../../../src/cli/args/markdown.ts";
import { titleOf, TOPICS } from "../../../../src/cli/args/topics.ts";

const PAGES: [what: string, markdown: string, text: string][] = [
  ["a heading and a paragraph", "# A title\n\none\ntwo\n", "A title\n\n  one two\n"],
  ["a long paragraph", "aaaa bbbb cccc dddd eeee\n", "  aaaa bbbb cccc\n  dddd eeee\n"],
  ["a list", "- aaaa bbbb cccc dddd\n- e\n", "  - aaaa bbbb cccc\n    dddd\n  - e\n"],
  ["a list in a list", "- a\n  - b\n    c\n- d\n", "  - a\n    - b c\n  - d\n"],
  ["text after a list", "- a\n\nb\n", "  - a\n\n  b\n"],
  ["numbers", "1. a\n2. b\n", "  1. a\n  2. b\n"],
  [
    "code",
    "a\n\n```sh\nvery long **line** of a script\n\n  x\n```\n\nb\n",
    [
      "  a\n\n      very long **line** of a script\n\n        x\n",
      "\n  b\n",
    ].join(""),
  ],
  ["emphasis", "**bold** and _is_, `_not_`\n", "  bold and is,\n  `_not_`\n"],
  ["names with underlines", "a_b_c\n", "  a_b_c\n"],
  ["links", "[page](page.md)\n\n[x](https://x.y)\n", "  page\n\n  x (https://x.y)\n"],
];
for (const [what, markdown, text] of PAGES) {
  Deno.test(`plainText() writes ${what}`, () => assertEquals(plainText(markdown, 18), text));
}

Deno.test("TOPICS are those that the README names", () => {
  assertEquals([...TOPICS.keys()], [
    ...[
      "day-2",
      "developing",
      "encryption",
      "failures",
      "from-python",
      "json",
      "layout",
      "libvirt",
      "many-hypervisors",
      "open",
      "operations",
      "performance",
    ],
    "permissions",
    "restore-vm",
    "retention",
    "verify",
  ]);
});

for (const [name, markdown] of TOPICS) {
  Deno.test(`helpOn("${name}") is plain text for 80 columns`, () => {
    const text = helpOn(name);
    assertEquals(text.split("\n", 1), [titleOf(name)]);
    // Code is to be copied: it stays in one line.
    const code = new Set(
      [...markdown.matchAll(/^ *```.*\n((?:.*\n)*?) *```$/gm)].flatMap(([, block = ""]) =>
        block.split("\n").map((line) => line.trim())
      ),
    );
    const prose = text.split("\n").filter((line) => !code.has(line.trim()));
    const breaks = (line: string) => line.trim().replace(/^- /, "").includes(" ");
    assertEquals(prose.filter((line) => [...line].length > 80 && breaks(line)), []);
    assertNotMatch(prose.join("\n").replaceAll(/`[^`]*`/g, ""), /\*\*|^#|\]\(|```|^\|/m);
    // Nothing is lost.
    const words = (text: string) => text.match(/[\p{L}\d]{3,}/gu) ?? [];
    const missing = new Set(words(markdown.replaceAll(/\]\([^)]*\)|^ *```.*$/gm, "")));
    for (const word of words(text)) missing.delete(word);
    assertEquals([...missing], []);
    assert(text.endsWith("\n"));
  });
}

/**
 * Markdown as plain text for a terminal: what the topics use of it. Pure.
 *
 * @module
 */

import { wrap } from "./help.ts";

const INDENT = "  ";
/** Code is not wrapped, and stands apart. */
const CODE_INDENT = "    ";

/** One paragraph, item, heading or block of code. */
interface Block {
  kind: "text" | "heading" | "code";
  /** Of the source: how deep it stands in a list. */
  indent: string;
  /** "- " before an item. */
  mark: string;
  lines: string[];
}

/** A page in plain text, no line but of code longer than `width`. */
export function plainText(markdown: string, width: number): string {
  const blocks = blocksOf(markdown);
  return blocks.map((block, i) => {
    const text = blockText(block, width);
    // The items of a list stand together.
    const before = i === 0 || (block.mark !== "" && blocks[i - 1]?.mark !== "") ? "" : "\n";
    return before + text;
  }).join("");
}

function blocksOf(markdown: string): Block[] {
  const blocks: Block[] = [];
  let open: Block | null = null;
  for (const line of markdown.split("\n")) {
    if (open?.kind === "code") {
      if (line.trim() === "```") open = null;
      else open.lines.push(line.slice(open.indent.length));
      continue;
    }
    const [, indent = "", mark = "", rest = ""] = /^( *)(- |\d+\. )?(.*)$/.exec(line) ?? [];
    const begin = (kind: Block["kind"], lines: string[]): Block => {
      const block = { kind, indent, mark, lines };
      blocks.push(block);
      return block;
    };
    if (line.trim() === "") open = null;
    else if (rest.startsWith("```")) open = begin("code", []);
    else if (/^#+ /.test(line)) void begin("heading", [rest.replace(/^#+ /, "")]), open = null;
    else if (open && mark === "") open.lines.push(rest);
    else open = begin("text", [rest]);
  }
  return blocks;
}

function blockText({ kind, indent, mark, lines }: Block, width: number): string {
  if (kind === "heading") return `${inline(lines.join(" "))}\n`;
  const left = INDENT + indent;
  if (kind === "code") {
    return lines.map((line) => (left + CODE_INDENT + line).trimEnd() + "\n").join("");
  }
  const hanging = left + " ".repeat(mark.length);
  return wrap(inline(lines.join(" ")), width - hanging.length)
    .map((line, i) => `${i === 0 ? left + mark : hanging}${line}\n`).join("");
}

/** Without the marks of emphasis and links; code stays as it is. */
function inline(text: string): string {
  return text.split(/(`[^`]*`)/).map((part) =>
    part.startsWith("`") ? part : part
      .replace(/\*\*|(?<!\w)_(?=\w)|(?<=[\w.])_(?!\w)/g, "")
      .replace(/\\([_*<>#\[\]])/g, "$1")
  ).join("")
    .replace(/\[([^\]]+)\]\((https?:[^)]+)\)/g, "$1 ($2)")
    .replace(/\[([^\]]+)\]\([^)]+\)/g, "$1");
}

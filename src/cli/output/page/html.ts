/**
 * HTML in which no text can become markup: what is put into a template is escaped, unless a template made it.
 * Pure.
 *
 * @module
 */

import { printable } from "../text.ts";

/** Markup that a template made. */
export class Html {
  constructor(readonly markup: string) {}
}

type Value = string | number | Html | readonly Html[];

const ENTITIES: Record<string, string> = {
  "&": "&amp;",
  "<": "&lt;",
  ">": "&gt;",
  '"': "&quot;",
  "'": "&#39;",
};

/** A text as it may stand in an element and in a quoted attribute. */
export function escapeHtml(text: string): string {
  return printable(text).replaceAll(/[&<>"']/g, (letter) => ENTITIES[letter] ?? "");
}

/** A template of HTML. */
export function html(parts: TemplateStringsArray, ...values: Value[]): Html {
  return new Html(
    parts.map((part, i) => part + (i < values.length ? markupOf(values[i]) : "")).join(""),
  );
}

function markupOf(value: Value | undefined): string {
  if (value instanceof Html) return value.markup;
  if (typeof value === "string" || typeof value === "number") return escapeHtml(String(value));
  return (value ?? []).map(({ markup }) => markup).join("");
}

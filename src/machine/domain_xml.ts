/**
 * A libvirt domain's XML with other paths. Pure.
 *
 * Source: libvirt's "Domain XML format": a disk has `<source file=…>` or, with type "block", `<source dev=…>`;
 * UEFI variables have `<nvram>PATH</nvram>`.
 *
 * @module
 */

/** Whether a text is a domain's XML. */
export function isDomainXml(text: string): boolean {
  return /^\s*(<\?xml[^>]*\?>\s*)?(<!--[\s\S]*?-->\s*)*<domain[\s>]/.test(text);
}

/**
 * Puts new paths into a domain's XML.
 *
 * @param files The new path of each old one.
 * @returns The XML, and the old paths that it does not name.
 */
export function domainXml(
  text: string,
  files: ReadonlyMap<string, string>,
): { xml: string; missing: string[] } {
  const found = new Set<string>();
  const newOf = (escaped: string): string | undefined => {
    const old = unescaped(escaped);
    const path = files.get(old);
    if (path !== undefined) found.add(old);
    return path === undefined ? undefined : escape(path);
  };
  const disks = text.replace(/<disk\b[^>]*>[\s\S]*?<\/disk>/g, (disk) => {
    const source = /<source\b[^>]*?\b(file|dev)=(["'])(.*?)\2/.exec(disk);
    const path = source ? newOf(source[3] ?? "") : undefined;
    if (!source || path === undefined) return disk;
    const [whole, kind, quote] = source;
    const named = whole.slice(0, whole.lastIndexOf(`${kind}=`)) + `file=${quote}${path}${quote}`;
    return disk
      // What it stood on is in it now.
      .replace(/\s*<backingStore\b(?:[^>]*\/>|[\s\S]*<\/backingStore>)/, "")
      .replace(whole, () => named)
      .replace(/^(<disk\b[^>]*\btype=)(["'])block\2/, "$1$2file$2");
  });
  const xml = disks.replace(/(<nvram\b[^>]*>)([^<]*)(<\/nvram>)/g, (whole, open, path, close) => {
    const to = newOf(path.trim());
    return to === undefined ? whole : open + to + close;
  });
  return { xml, missing: [...files.keys()].filter((old) => !found.has(old)) };
}

const ENTITIES: Record<string, string> = {
  "&": "&amp;",
  "<": "&lt;",
  ">": "&gt;",
  '"': "&quot;",
  "'": "&apos;",
};

const escape = (text: string) => text.replace(/[&<>"']/g, (letter) => ENTITIES[letter] ?? letter);

function unescaped(text: string): string {
  return text.replace(
    /&(amp|lt|gt|quot|apos);/g,
    (entity) => Object.entries(ENTITIES).find(([, name]) => name === entity)?.[0] ?? entity,
  );
}

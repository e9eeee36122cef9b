/**
 * Takes passwords and keys out of what QEMU says of disks: their names may hold them, and go into records,
 * logs, and to other programs. Pure.
 *
 * Source: QEMU's manual, "Device URL Syntax", and its drivers' options: what ends in `-secret` names an object,
 * and is not a secret itself.
 *
 * @module
 */

const HIDDEN = "***";

/** The end of an option's or a parameter's name whose value is a secret. */
const NAMES =
  "password|passwd|passphrase|pass|secret|key|keyblob|token|cookie|authorization|signature|sig|credential";

/** `scheme://user:secret@host`, and `iscsi://user%secret@host`. */
const IN_URL = /(\b[a-z][a-z0-9+.-]*:\/\/[^\s/?#"'\\@:%]*[:%])[^\s/"']*@/gi;

/** `:key=…` of rbd, `?token=…&sig=…` of a URL, `,password=…` of options; a backslash escapes in the first. */
const IN_LIST = new RegExp(
  `((?:^|[:?&;,\\s])(?:[\\w.-]*[._-])?(?:${NAMES})=)(?:\\\\.|[^\\s:&;,"'\\\\])*`,
  "gi",
);

/** `"password": "…"`, within a string as well, where a backslash stands before each quote. */
const IN_JSON = new RegExp(
  `((\\\\*")(?:[\\w.-]*[._-])?(?:${NAMES})\\2\\s*:\\s*\\2)[\\s\\S]*?(?<!\\\\)\\2`,
  "gi",
);

const IS_SECRET = new RegExp(`(^|[._-])(${NAMES})$`, "i");
const IS_FILE = /(^|-)filename$/;
const IS_NAME_OF_SECRET = /-secret$/i;

/** A text without its secrets; the same again gives the same, so that texts can be compared. */
export function withoutSecrets(text: string): string {
  // A path holds none, whatever it looks like.
  if (text.startsWith("/")) return text;
  return text
    .replace(IN_URL, `$1${HIDDEN}@`)
    .replace(
      IN_JSON,
      (whole, head: string, quote: string) =>
        /-secret\\*"\s*:/i.test(head) ? whole : `${head}${HIDDEN}${quote}`,
    )
    .replace(IN_LIST, (whole, head: string) => /-secret=$/i.test(head) ? whole : head + HIDDEN);
}

/**
 * What QEMU calls an image, without its secrets. A path holds none, a relative one such as `key=a.qcow2`
 * neither: two disks must not be called alike.
 */
export function nameWithoutSecrets(name: string): string {
  return /^[a-z][a-z0-9+.-]*:/i.test(name) ? withoutSecrets(name) : name;
}

/** The same for all texts in a value of JSON. */
export function valueWithoutSecrets<T>(value: T): T;
export function valueWithoutSecrets(value: unknown): unknown {
  if (typeof value === "string") return withoutSecrets(value);
  if (Array.isArray(value)) return value.map((item) => valueWithoutSecrets(item));
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([name, item]) => [
      name,
      typeof item === "string" && IS_SECRET.test(name) && !IS_NAME_OF_SECRET.test(name)
        ? HIDDEN
        : typeof item === "string" && IS_FILE.test(name)
        ? nameWithoutSecrets(item)
        : valueWithoutSecrets(item),
    ]),
  );
}

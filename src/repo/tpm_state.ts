/**
 * The state of a TPM among the files that were saved beside a run. Pure.
 *
 * Source: swtpm(8), `--tpmstate`: the state that lasts is in `tpm2-00.permall`, that of a TPM 1.2 in
 * `tpm-00.permall`.
 *
 * @module
 */

import { basename } from "@std/path";
import type { SavedFile } from "./saved.ts";
import { filesOfTar } from "./tar.ts";

export interface TpmState {
  /** What swtpm calls it. */
  name: string;
  version: "1.2" | "2.0";
  contents: Uint8Array;
  /** The saved archive that it is in. */
  from: string;
}

const VERSIONS: Record<string, TpmState["version"]> = {
  "tpm2-00.permall": "2.0",
  "tpm-00.permall": "1.2",
};

/** Looks for it in the archives; the first that is found is taken. */
export function tpmStateIn(saved: readonly SavedFile[]): TpmState | null {
  for (const { name: from, contents: archive } of saved) {
    for (const { name: path, contents } of filesOfTar(archive) ?? []) {
      const name = basename(path), version = VERSIONS[name];
      if (version !== undefined) return { name, version, contents, from };
    }
  }
  return null;
}

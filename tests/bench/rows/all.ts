/**
 * All rows, in the table's order. A new one is a file beside this, and a line here.
 *
 * @module
 */

import type { Row } from "../row.ts";
import { chain } from "./chain.ts";
import { compress } from "./compress.ts";
import { full } from "./full.ts";
import { idle } from "./idle.ts";
import { scattered } from "./scattered.ts";
import { size } from "./size.ts";
import { thin } from "./thin.ts";
import { zeroes } from "./zeroes.ts";

export const ROWS: readonly Row[] = [full, zeroes, scattered, idle, thin, compress, size, chain];

import { Deadline } from "../../src/fs/deadline.ts";

/** For tests whose file systems answer: as a command has it unless a user says otherwise. */
export const deadline = new Deadline(300_000);

/**
 * The end of what a program prints, while it prints.
 *
 * @module
 */

/** What is kept of an output: `qemu-img info` prints some kilobytes, a progress without end is of no use. */
const MAX_OUTPUT_CHARACTERS = 1 << 20;

/**
 * Reads an output to its end, and returns the last part of it.
 *
 * @param onText Gets it piece by piece.
 */
export async function tailOf(
  stream: ReadableStream<Uint8Array>,
  onText?: (text: string) => void,
): Promise<string> {
  // Told to keep U+FEFF: Deno 2.9 takes one at the start of any chunk for a byte order mark.
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  let kept = "";
  for await (const chunk of stream) {
    const text = decoder.decode(chunk, { stream: true });
    onText?.(text);
    kept = (kept + text).slice(-MAX_OUTPUT_CHARACTERS);
  }
  return kept;
}

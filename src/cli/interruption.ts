/**
 * Ctrl-C, SIGTERM and a terminal that is closed: the first asks for a checkpoint and a stop, the second stops at once.
 * `what` says on stderr what the first does.
 */
export function interruption(what: string): { signal: AbortSignal; release(): void } {
  const controller = new AbortController();
  const handler = (name: NodeJS.Signals) => {
    if (controller.signal.aborted) process.exit(130);
    process.stderr.write(`\n${name}: ${what}; again to stop at once\n`);
    controller.abort(name);
  };
  const names: NodeJS.Signals[] = ['SIGINT', 'SIGTERM', 'SIGHUP'];
  for (const name of names) process.on(name, handler);
  return {
    signal: controller.signal,
    release: () => {
      for (const name of names) process.off(name, handler);
    },
  };
}

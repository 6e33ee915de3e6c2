#!/usr/bin/env node
import { CommanderError } from 'commander';
import { errorBlock, exitCodeOf } from './errorBlock.ts';
import { createProgram, usageError } from './program.ts';
import { coloursFor } from './terminal.ts';

// A reader that has seen enough, such as `head`, ends the program without a word.
for (const stream of [process.stdout, process.stderr])
  stream.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(0);
    // The terminal was closed: SIGHUP decides what becomes of the command.
    if (error.code === 'EIO') return;
    throw error;
  });

const argv = process.argv.slice(2);

function fail(thrown: unknown): void {
  process.exitCode = exitCodeOf(thrown);
  process.stderr.write(errorBlock(thrown, coloursFor(process.stderr), argv.includes('--verbose')));
}

process.on('uncaughtException', (error) => {
  fail(error);
  process.exit();
});

try {
  const program = createProgram();
  if (argv.length === 0) program.outputHelp();
  else await program.parseAsync(argv, { from: 'user' });
} catch (thrown) {
  const error = thrown instanceof CommanderError ? usageError(thrown, argv) : thrown;
  if (error !== undefined) fail(error);
}

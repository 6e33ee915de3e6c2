// Prints the line that closes a CI run: N passed, N failed.
import { readFileSync } from 'node:fs';

const report = JSON.parse(readFileSync('coverage/tests.json', 'utf8'));
const { numPassedTests: passed, numFailedTests: failed, numPendingTests: skipped } = report;
console.log(`${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`);
process.exit(failed > 0 || passed === 0 ? 1 : 0);

/**
 * The conformance suite for strategies, for any test runner.
 * @module
 */
export { type ConformanceCheck, type ConformanceOptions, conformanceChecks } from './testing/conformance.ts';

'use strict';
const ms = require('ms');
const semver = require('semver');

console.log(`two hours are ${ms('2h')} ms`);
console.log(`1.2.3 satisfies ^1.0.0: ${semver.satisfies('1.2.3', '^1.0.0')}`);

// The view is in the address, so that it can be shared, linked from an alert, and survives a reload:
// #q=prod&problems=1&tunnel=prod/db

const KEYS = ['q', 'problems', 'phase', 'tunnel'];

export function inAddress(key) {
  return new URLSearchParams(location.hash.slice(1)).get(key) ?? '';
}

// Returns the hash of the present view with these changes. '' removes a key.
export function hashWith(changes) {
  const parameters = new URLSearchParams();
  for (const key of KEYS) {
    const value = changes[key] ?? inAddress(key);
    if (value !== '') parameters.set(key, value);
  }
  return `#${parameters.toString().replaceAll('%2F', '/')}`;
}

// Changes the address without a new entry in the history of the browser.
export function replaceAddress(changes) {
  const hash = hashWith(changes);
  if (hash.slice(1) === location.hash.slice(1)) return;
  history.replaceState(history.state, '', hash === '#' ? location.pathname + location.search : hash);
}

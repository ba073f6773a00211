// Formats numbers and times as text. Pure functions: no document, no clock.

// Converts a time of the server (RFC 3339 or Unix seconds) to ms. NaN for none.
export function millis(time) {
  if (time === null || time === undefined || time === '') return NaN;
  return typeof time === 'number' ? time * 1000 : Date.parse(time);
}

// Binary units, as for bandwidthLimit in the file, with three digits.
export function bytes(count) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  let value = count;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  return `${value.toFixed(digits)} ${units[unit]}`;
}

export function rate(perSecond) {
  return perSecond < 1 ? '0' : `${bytes(perSecond)}/s`;
}

// "8 s", "3 min", "2 h 5 min", "4 d": longer times are coarser, so that rows change less often.
export function span(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  const days = Math.floor(hours / 24);
  return hours % 24 && days < 7 ? `${days} d ${hours % 24} h` : `${days} d`;
}

// "0.3 s", "12 s", "1 min 10 s": for times that are added up.
export function duration(seconds) {
  if (seconds < 9.95) return `${Number(seconds.toFixed(1))} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  return whole % 60 ? `${Math.floor(whole / 60)} min ${whole % 60} s` : `${whole / 60} min`;
}

// The hour and minute of a time.
export function minuteOf(ms) {
  return new Date(ms).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit', hour12: false });
}

export function clock(ms) {
  return Number.isNaN(ms) ? '' : new Date(ms).toLocaleTimeString([], { hour12: false });
}

// A time of another day has its date.
export function moment(ms, now) {
  const day = new Date(ms);
  return day.toDateString() === new Date(now).toDateString() ? clock(ms) : `${day.toLocaleDateString()} ${clock(ms)}`;
}

export function roundTrip(seconds) {
  const ms = seconds * 1000;
  return `${ms < 10 ? ms.toFixed(1) : ms.toFixed(0)} ms`;
}

// The listen address as text. A remote tunnel listens on its server; port 0 is not assigned yet.
export function listening(tunnel) {
  const address = (tunnel.listen || '?').replace(/:0$/, ':(any port)');
  return tunnel.type === 'remote' ? `${address} on ${tunnel.target}` : address;
}

export function count(number, noun) {
  return number === 1 ? `1 ${noun}` : `${number} ${noun}s`;
}

// Times and spans as people read them.

export function clock(seconds: number, precise = false): string {
  if (!seconds) return "";
  const moment = new Date(seconds * 1000);
  const time = moment.toLocaleTimeString([], { hour12: false }) + (precise ? `.${String(moment.getMilliseconds()).padStart(3, "0")}` : "");
  return moment.toDateString() === new Date().toDateString() ? time : `${moment.toLocaleDateString()} ${time}`;
}

export function duration(seconds: number): string {
  if (seconds < 0.9995) return `${(seconds * 1000).toFixed(seconds < 0.0095 ? 1 : 0)} ms`;
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return hours < 24 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

import { mount } from "svelte";
import "../style.css";
import Report from "./Report.svelte";
import type { Report as Data } from "./types";

const data = JSON.parse(document.getElementById("report")!.textContent!) as Data;
mount(Report, { target: document.getElementById("app")!, props: { data } });

import { render } from "preact";
import "./styles/base.css";
import "./styles/frame.css";
import "./styles/controls.css";
import "./styles/parts.css";
import "./styles/tokens.css";
import { App } from "./app";

render(<App />, document.getElementById("page")!);

"""The page of `latte demo`. Only latte.demo.demo_page imports gradio, when the page is built."""

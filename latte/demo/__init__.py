"""The page of `latte demo`. gradio is imported by latte.demo.demo_page alone, when the page is built."""
